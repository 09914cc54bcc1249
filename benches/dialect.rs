//! A frame in, an envelope, a frame out.

use std::hint::black_box;

use chat_core::wire::{ClientFrame, ClientRequest};
use chat_core::{Batch, Command, Dialect, Event, Item, Message, RoomId, Sender, Topic, envelope};
use criterion::{Criterion, criterion_group, criterion_main};

const USER: Sender<'_> = Sender::new("n5p2-17", "Ann", "#FF6B6B");

fn native_send(text: &str) -> String {
    let room = RoomId::new("room1").expect("a name");
    ClientFrame::new(ClientRequest::Send { room, content: text.into() }).encode()
}

fn dialects(c: &mut Criterion) {
    let text = "x".repeat(128);
    let frames = [
        (Dialect::Native, native_send(&text)),
        (Dialect::Rooms, format!(r#"{{"type":"chat_message","message":"{text}"}}"#)),
        (
            Dialect::Topics,
            format!(r#"{{"type":"sendMessage","roomId":"room1","message":"{text}"}}"#),
        ),
    ];
    for (dialect, frame) in &frames {
        c.bench_function(&format!("decode {dialect:?}"), |b| {
            b.iter(|| dialect.decode(black_box(frame)).is_ok());
        });
    }
    let message = Event::Message(Message::new(USER, &text, 1));
    c.bench_function("envelope", |b| b.iter(|| envelope::encode(black_box(&message))));

    let payload = envelope::encode(&message);
    let topic = Topic::Room(RoomId::new("room1").unwrap());
    for (dialect, _) in &frames {
        for size in [1, 16] {
            c.bench_function(&format!("encode {dialect:?}, a batch of {size}"), |b| {
                b.iter(|| {
                    let items = (0..size).map(|_| Item::Envelope(payload.clone(), None)).collect();
                    Batch::new(topic.clone(), items).frames(*dialect).is_some()
                });
            });
        }
    }
    c.bench_function("from frame to frame, native", |b| {
        b.iter(|| {
            let request = Dialect::Native.decode(black_box(&frames[0].1)).unwrap();
            let Command::Send { content, .. } = request.command else { unreachable!() };
            let said = Event::Message(Message::new(USER, &content.message, 1));
            let item = Item::Envelope(envelope::encode(&said), None);
            Batch::new(topic.clone(), vec![item]).frames(Dialect::Native).is_some()
        });
    });
}

criterion_group!(benches, dialects);
criterion_main!(benches);
