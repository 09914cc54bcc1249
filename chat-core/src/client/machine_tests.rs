use super::*;
use crate::client::Token;

const START: Duration = Duration::from_secs(100);

fn machine(config: Config) -> Machine {
    let urls = vec!["ws://a.example".into(), "ws://b.example".into()];
    Machine::new(config, urls, [1; 32], START).unwrap()
}

/// A message to this user alone.
const DIRECT: &str = r##"{"type":"direct","message":"hi","at":1,
    "user":{"id":"bob","name":"Bob","color":"#B56AD9"}}"##;

fn welcome(machine: &mut Machine, now: Duration) {
    welcome_with(machine, r#"{"message_bytes":100,"frame_bytes":1000}"#, now);
}

/// Answers the `hello`, which is the first request.
fn welcome_with(machine: &mut Machine, limits: &str, now: Duration) {
    machine.handle_connected(now);
    let welcome = format!(
        r##"{{"type":"welcome","id":1,"session":"s","node":"n","resume":"secret",
        "user":{{"id":"ann","name":"Ann","color":"#B56AD9"}},"expires_in_ms":100000,
        "limits":{limits}}}"##
    );
    machine.handle_text(&welcome, now).unwrap();
    assert_eq!(*machine.state(), State::Online);
    while machine.poll_action().is_some() {}
    while machine.poll_event().is_some() {}
}

/// A client that is in the room "r", by its second request.
fn member() -> Machine {
    member_with(r#"{"message_bytes":100,"frame_bytes":1000}"#)
}

fn member_with(limits: &str) -> Machine {
    member_by(Config::default(), limits)
}

fn member_by(config: Config, limits: &str) -> Machine {
    let mut machine = machine(config);
    welcome_with(&mut machine, limits, START);
    machine.join("r", 0, START).unwrap();
    joined(&mut machine, "r", 2, START);
    while machine.poll_action().is_some() {}
    while machine.poll_event().is_some() {}
    machine
}

/// The frames that the machine sends; it wants nothing else.
fn sent(machine: &mut Machine) -> Vec<String> {
    let actions = std::iter::from_fn(|| machine.poll_action());
    let frames = actions.map(|action| match action {
        Action::Send(frame) => frame,
        other => panic!("{other:?}"),
    });
    frames.collect()
}

fn joined(machine: &mut Machine, room: &str, id: u64, now: Duration) {
    let joined = format!(
        r#"{{"type":"joined","id":{id},"room":"{room}","recovered":false,"members":[],
        "count":1,"messages":[]}}"#
    );
    machine.handle_text(&joined, now).unwrap();
    assert!(matches!(machine.poll_answer(), Some((_, Ok(Answer::Joined(_))))));
}

#[test]
fn addresses_are_tried_in_turn() {
    let mut machine = machine(Config::default());
    let mut tried = Vec::new();
    let mut now = START;
    while tried.len() < 3 {
        if let Some(Action::Connect { url }) = machine.poll_action() {
            assert_eq!(*machine.state(), State::Connecting { url: url.clone() });
            tried.push(url);
            machine.handle_disconnected(Disconnect::new("refused"), now);
        }
        while machine.poll_event().is_some() {}
        now = machine.poll_timeout().unwrap();
        machine.handle_timeout(now);
    }
    assert_eq!(tried, ["ws://a.example", "ws://b.example", "ws://a.example"]);
}

#[test]
fn closed_client_takes_no_request_and_waits_for_nothing() {
    let mut machine = machine(Config::default());
    assert!(!machine.is_closed());
    machine.close(START);
    assert!(machine.is_closed());
    let error = machine.join("r", 0, START).unwrap_err();
    assert_eq!(error.to_string(), "the client is closed: closed by the application (1000)");
    assert_eq!(machine.poll_timeout(), None);
}

#[test]
fn joins_of_a_room_that_wait_are_bounded() {
    let mut machine = machine(Config { send_queue: 2, ..Config::default() });
    for _ in 0..2 {
        machine.join("r", 0, START).unwrap();
    }
    assert_eq!(machine.join("r", 0, START).unwrap_err(), ClientError::QueueFull);
}

/// An application that waits for an answer does not take events in the meantime.
#[test]
fn server_is_read_for_an_answer_while_events_wait() {
    type Call = fn(&mut Machine) -> Result<RequestId, ClientError>;
    let calls: [(Call, &str); 3] = [
        (
            |machine| machine.join("other", 0, START),
            r#"{"type":"joined","id":3,"room":"other","recovered":false,"members":[],"count":1,
            "messages":[]}"#,
        ),
        (
            |machine| machine.members("r", START),
            r#"{"type":"members","id":3,"room":"r","members":[],"count":1}"#,
        ),
        (|machine| machine.send("r", "hi", START), r#"{"type":"ok","id":3}"#),
    ];
    for (call, answer) in calls {
        let mut machine = member();
        call(&mut machine).unwrap();
        machine.handle_text(DIRECT, START).unwrap();
        assert!(machine.wants_text(), "for {answer}");
        machine.handle_text(answer, START).unwrap();
        assert!(matches!(machine.poll_answer(), Some((_, Ok(_)))), "{answer}");
        assert!(!machine.wants_text(), "now the application takes the events");
    }
}

#[test]
fn server_has_the_time_of_a_pong_after_the_process_did_not_run() {
    let config = Config::default();
    let pong_timeout = config.pong_timeout;
    let mut machine = machine(config);
    welcome(&mut machine, START);
    let now = machine.poll_timeout().unwrap() + Duration::from_secs(600);
    machine.handle_timeout(now);
    assert_eq!(machine.poll_action(), Some(Action::Ping));
    assert_eq!(machine.poll_timeout(), Some(now + pong_timeout));
    assert_eq!(*machine.state(), State::Online);
    machine.handle_timeout(now + pong_timeout);
    assert!(matches!(machine.state(), State::Waiting { .. }), "it was silent");
}

#[test]
fn token_fetch_times_out_and_is_retried() {
    let mut machine = online_with_token();
    let first = next_fetch(&mut machine, START);
    assert!(first < START + Duration::from_secs(100), "before the token runs out");
    let second = next_fetch(&mut machine, first);
    let after = (second - first).as_secs();
    assert!((125..=130).contains(&after), "{after} s: those of a fetch, and a pause");
}

/// The server would end the connection.
#[test]
fn new_token_is_not_sent_in_a_frame_that_is_too_large() {
    let mut sent = Vec::new();
    for length in 900..1000 {
        let mut machine = online_with_token();
        let now = next_fetch(&mut machine, START);
        machine.handle_token(Ok("x".repeat(length)), now);
        if let Some(Action::Send(frame)) = machine.poll_action() {
            sent.push(frame.len());
        }
    }
    let largest = *sent.last().expect("some are small enough");
    assert!((980..=1000).contains(&largest), "{largest} bytes, of 1,000 that are allowed");
    assert!(sent.len() < 100, "some are too large");
}

#[test]
fn typing_does_not_pile_up_in_a_transport_that_takes_nothing() {
    let mut machine = machine(Config::default());
    welcome(&mut machine, START);
    machine.join("r", 0, START).unwrap();
    while machine.poll_action().is_some() {}
    let joined = r#"{"type":"joined","id":2,"room":"r","recovered":false,"members":[],
        "count":1,"messages":[]}"#;
    machine.handle_text(joined, START).unwrap();

    for step in 0..1_000 {
        machine.typing("r", step % 2 == 0, START).unwrap();
    }
    assert!(matches!(machine.poll_action(), Some(Action::Send(_))));
    assert_eq!(machine.poll_action(), None);
    machine.typing("r", false, START).unwrap();
    assert!(matches!(machine.poll_action(), Some(Action::Send(_))));
}

fn online_with_token() -> Machine {
    let token = Some(Token::Fetched);
    let mut machine = machine(Config { token, ..Config::default() });
    assert_eq!(machine.poll_action(), Some(Action::FetchToken));
    machine.handle_token(Ok("first".into()), START);
    welcome(&mut machine, START);
    machine
}

/// When the client asks for a token; the server answers all pings until then.
fn next_fetch(machine: &mut Machine, mut now: Duration) -> Duration {
    for _ in 0..100 {
        match machine.poll_action() {
            Some(Action::FetchToken) => return now,
            Some(_) => machine.handle_alive(now),
            None => {
                now = machine.poll_timeout().unwrap();
                machine.handle_timeout(now);
            }
        }
    }
    panic!("no token is fetched");
}

#[test]
fn debug_shows_the_state() {
    let machine = machine(Config::default());
    let shown = r#"Machine { state: Connecting { url: "ws://a.example" }, .. }"#;
    assert_eq!(format!("{machine:?}"), shown);
}

#[test]
fn welcome_is_shown_to_the_application() {
    let mut machine = machine(Config::default());
    assert_eq!(machine.welcome(), None);
    welcome(&mut machine, START);
    assert_eq!(machine.welcome().unwrap().user.id.as_str(), "ann");
}

#[test]
fn token_that_was_not_asked_for_is_ignored() {
    let mut machine = machine(Config::default());
    welcome(&mut machine, START);
    machine.handle_token(Ok("token".into()), START);
    assert_eq!(machine.poll_action(), None);
    assert_eq!(*machine.state(), State::Online);
}

// Rooms.

#[test]
fn join_that_waits_is_sent_once() {
    let mut machine = machine(Config::default());
    welcome(&mut machine, START);
    let join = [r#"{"id":2,"type":"join","room":"r"}"#];
    machine.join("r", 0, START).unwrap();
    assert_eq!(sent(&mut machine), join);
    machine.join("r", 0, START).unwrap();
    assert!(sent(&mut machine).is_empty(), "one answer is for both");
}

#[test]
fn leave_of_a_room_that_the_server_knows_nothing_of_needs_no_server() {
    let mut machine = machine(Config::default());
    let joining = machine.join("r", 0, START).unwrap();
    let leaving = machine.leave("r", START).unwrap();
    let answers: Vec<_> = std::iter::from_fn(|| machine.poll_answer()).collect();
    assert!(
        matches!(&answers[..], [(join, Err(ClientError::NotInRoom)), (leave, Ok(Answer::Left))]
            if (*join, *leave) == (joining, leaving)),
        "{answers:?}"
    );
}

/// The connection has ended, and the user is in no room by it.
#[test]
fn leave_without_a_connection_needs_no_server() {
    let mut machine = member();
    machine.handle_disconnected(Disconnect::new("cut"), START);
    machine.leave("r", START).unwrap();
    assert!(matches!(machine.poll_answer(), Some((_, Ok(Answer::Left)))));
}

#[test]
fn frame_that_was_not_sent_ends_with_its_connection() {
    let mut machine = member();
    machine.members("r", START).unwrap();
    machine.handle_disconnected(Disconnect::new("cut"), START);
    assert!(sent(&mut machine).is_empty());
    assert!(matches!(machine.poll_answer(), Some((_, Err(ClientError::Disconnected)))));
}

#[test]
fn close_fails_all_that_waits() {
    let mut machine = member();
    let requests = [
        machine.join("other", 0, START).unwrap(),
        machine.members("r", START).unwrap(),
        machine.send("r", Content::from("hi").key("k"), START).unwrap(),
    ];
    machine.close(START);
    let mut failed: Vec<_> = std::iter::from_fn(|| machine.poll_answer()).collect();
    failed.sort_by_key(|(request, _)| *request);
    let errors = failed.into_iter().map(|(request, outcome)| (request, outcome.unwrap_err()));
    let [joining, members, sending] = requests;
    let closed =
        || ClientError::Closed { loss: Disconnect::with_code(1000, "closed by the application") };
    let expected = [
        (joining, closed()),
        (members, closed()),
        (sending, ClientError::OutcomeUnknown { key: "k".into() }),
    ];
    assert!(errors.eq(expected));
}

/// The server would end the connection.
#[test]
fn message_is_not_sent_in_a_frame_that_is_too_large() {
    let mut sizes = Vec::new();
    let mut refused = 0;
    for length in 50..=150 {
        let mut machine = member_with(r#"{"message_bytes":150,"frame_bytes":200}"#);
        machine.send("r", &"x".repeat(length), START).unwrap();
        let frames = sent(&mut machine);
        let answer = machine.poll_answer();
        refused += usize::from(matches!(answer, Some((_, Err(ClientError::TooLarge { .. })))));
        sizes.extend(frames.iter().map(String::len));
    }
    assert_eq!(sizes.len() + refused, 101);
    assert!((175..=200).contains(sizes.last().unwrap()), "{sizes:?} bytes, of 200 allowed");
}

// Typing.

fn types(machine: &mut Machine) -> bool {
    machine.typing("r", true, START).unwrap();
    sent(machine).iter().any(|frame| frame.contains("typing"))
}

#[test]
fn typing_is_sent_in_a_room_that_the_client_is_in() {
    let mut machine = machine(Config::default());
    welcome(&mut machine, START);
    machine.join("r", 0, START).unwrap();
    assert!(!types(&mut machine), "the join is not answered");
    joined(&mut machine, "r", 2, START);
    assert!(types(&mut machine));
}

#[test]
fn typing_is_dropped_while_the_server_takes_nothing() {
    let mut machine = member();
    machine.handle_writable(false, START);
    assert!(!types(&mut machine));
    machine.handle_writable(true, START);
    assert!(types(&mut machine), "what was dropped does not count as sent");
}

#[test]
fn typing_is_dropped_at_the_rate_of_frames() {
    for (burst, is_sent) in [(3, true), (2, false)] {
        let frames = format!(r#""frames":{{"per_second":1,"burst":{burst}}}"#);
        let mut machine =
            member_with(&format!(r#"{{"message_bytes":100,"frame_bytes":1000,{frames}}}"#));
        assert_eq!(types(&mut machine), is_sent, "the third frame of a burst of {burst}");
    }
}

#[test]
fn typing_is_dropped_while_a_larger_frame_waits() {
    let bytes = r#""bytes":{"per_second":1000,"burst":1000}"#;
    let mut machine =
        member_with(&format!(r#"{{"message_bytes":1000,"frame_bytes":2000,{bytes}}}"#));
    machine.direct("bob", &"x".repeat(900), None, START).unwrap();
    assert!(sent(&mut machine).is_empty());
    assert!(!types(&mut machine), "small enough to be sent at once, and does not overtake");
}

// Time.

#[test]
fn silent_server_is_pinged_and_then_lost() {
    let config = Config::default();
    let (ping, lost) = (START + config.ping_after, config.ping_after + config.pong_timeout);
    let mut machine = machine(config);
    welcome(&mut machine, START);
    assert_eq!(machine.poll_timeout(), Some(ping));
    machine.handle_timeout(ping);
    assert_eq!(machine.poll_action(), Some(Action::Ping));
    assert_eq!(machine.poll_timeout(), Some(START + lost));
    machine.handle_timeout(START + lost);
    assert!(matches!(machine.state(), State::Waiting { .. }));
}

/// A member whose sends do not time out.
fn member_without_timeouts() -> Machine {
    let hour = Duration::from_secs(3600);
    let config = Config::default().request_timeout(hour).send_timeout(hour);
    member_by(config, r#"{"message_bytes":100,"frame_bytes":1000}"#)
}

/// Calls the machine at its next deadline.
fn at_deadline(machine: &mut Machine, due: Duration) {
    assert_eq!(machine.poll_timeout(), Some(due));
    machine.handle_timeout(due);
}

#[test]
fn server_that_answers_no_request_is_pinged_soon_and_then_lost() {
    let second = |n| START + Duration::from_secs(n);
    let mut machine = member_without_timeouts();
    machine.send("r", "hi", second(20)).unwrap();
    assert_eq!(sent(&mut machine).len(), 1);
    assert_eq!(machine.poll_timeout(), Some(second(25)));
    // Each sign of life counts, as for a silent server.
    machine.handle_alive(second(22));
    at_deadline(&mut machine, second(27));
    assert_eq!(machine.poll_action(), Some(Action::Ping));
    machine.handle_alive(second(28));
    at_deadline(&mut machine, second(33));
    assert_eq!(machine.poll_action(), Some(Action::Ping));
    at_deadline(&mut machine, second(38));
    assert!(matches!(machine.state(), State::Waiting { loss, .. } if loss.reason.contains("ping")));
}

#[test]
fn next_server_may_take_twice_as_long_until_nothing_is_unanswered() {
    let mut machine = member_without_timeouts();
    machine.send("r", "hi", START).unwrap();
    let silence = |machine: &mut Machine, begun: Duration, answer_time: u64| {
        while machine.poll_action().is_some() {}
        at_deadline(machine, begun + Duration::from_secs(5));
        assert_eq!(machine.poll_action(), Some(Action::Ping));
        let end = begun + Duration::from_secs(5 + answer_time);
        at_deadline(machine, end);
        assert!(matches!(machine.state(), State::Waiting { .. }), "{answer_time}");
        reconnect(machine, end)
    };
    let mut now = START;
    for answer_time in [5, 10, 20, 40, 40] {
        now = silence(&mut machine, now, answer_time);
    }
    answer(&mut machine, "join", JOINED, now);
    answer(&mut machine, "send", r#"{"type":"ok","id":ID}"#, now);
    machine.send("r", "hi", now).unwrap();
    silence(&mut machine, now, 5);
}

#[test]
fn next_server_may_take_twice_as_long_also_where_requests_time_out() {
    let mut machine = member();
    machine.send("r", "hi", START).unwrap();
    let mut begun = START;
    for seconds in [10, 15, 25, 45, 45] {
        let mut now = begun;
        while !matches!(machine.state(), State::Waiting { .. }) {
            while machine.poll_event().is_some() {}
            now = machine.poll_timeout().unwrap();
            machine.handle_timeout(now);
        }
        assert_eq!(now - begun, Duration::from_secs(seconds));
        begun = reconnect(&mut machine, now);
    }
}

/// Lets the pause pass, and opens a connection up to its `welcome`. Returns the time.
fn reconnect(machine: &mut Machine, mut now: Duration) -> Duration {
    while !matches!(machine.state(), State::Connecting { .. }) {
        while machine.poll_event().is_some() {}
        now = machine.poll_timeout().unwrap();
        machine.handle_timeout(now);
    }
    while machine.poll_action().is_some() {}
    machine.handle_connected(now);
    answer(machine, "hello", WELCOME, now);
    now
}

/// Answers the request of this type that the machine sends now; `ID` in the frame is that of the request.
fn answer(machine: &mut Machine, kind: &str, frame: &str, now: Duration) {
    let actions: Vec<_> = std::iter::from_fn(|| machine.poll_action()).collect();
    let id = actions.iter().find_map(|action| {
        let Action::Send(frame) = action else { return None };
        let frame: serde_json::Value = serde_json::from_str(frame).unwrap();
        (frame["type"] == kind).then(|| frame["id"].to_string())
    });
    let id = id.unwrap_or_else(|| panic!("no {kind} in {actions:?}"));
    machine.handle_text(&frame.replace("ID", &id), now).unwrap();
    while machine.poll_event().is_some() {}
}

const WELCOME: &str = r##"{"type":"welcome","id":ID,"session":"s","node":"n",
    "user":{"id":"ann","name":"Ann","color":"#B56AD9"},
    "limits":{"message_bytes":100,"frame_bytes":1000}}"##;
const JOINED: &str = r#"{"type":"joined","id":ID,"room":"r","recovered":false,"members":[],"count":1,
    "messages":[]}"#;

#[test]
fn server_that_takes_nothing_is_lost_however_much_it_sends() {
    let mut machine = member();
    let second = |n| START + Duration::from_secs(n);
    machine.handle_writable(false, second(0));
    // It has taken a part, and has its time again.
    machine.handle_writable(false, second(20));
    for n in 21..55 {
        machine.handle_alive(second(n));
        machine.handle_timeout(second(n));
        assert_eq!(*machine.state(), State::Online, "{n}");
    }
    assert_eq!(machine.poll_timeout(), Some(second(55)));
    machine.handle_timeout(second(55));
    assert!(
        matches!(machine.state(), State::Waiting { loss, .. } if loss.reason.contains("nothing")),
        "{:?}",
        machine.state()
    );
}

#[test]
fn request_in_a_frame_that_was_sent_for_long_has_its_time_after_the_last_part() {
    let second = |n| START + Duration::from_secs(n);
    let mut machine = member_without_timeouts();
    machine.send("r", "hi", START).unwrap();
    for n in 0..20 {
        machine.handle_writable(false, second(n));
        machine.handle_timeout(second(n));
    }
    machine.handle_writable(true, second(20));
    while machine.poll_action().is_some() {}
    at_deadline(&mut machine, second(25));
    assert_eq!(machine.poll_action(), Some(Action::Ping));
    at_deadline(&mut machine, second(30));
    assert!(matches!(machine.state(), State::Waiting { .. }));
}

#[test]
fn server_that_has_taken_all_may_be_written_to_at_any_time() {
    let mut machine = member();
    machine.handle_writable(false, START);
    machine.handle_writable(true, START + Duration::from_secs(1));
    machine.handle_alive(START + Duration::from_secs(24));
    machine.handle_timeout(START + Duration::from_secs(40));
    assert_eq!(*machine.state(), State::Online);
}

#[test]
fn caller_that_is_a_second_late_has_run() {
    let config = Config::default();
    let silence = config.ping_after + config.pong_timeout;
    let mut machine = machine(config);
    welcome(&mut machine, START);
    let due = machine.poll_timeout().unwrap();
    machine.handle_timeout(due + Duration::from_secs(1));
    assert_eq!(machine.poll_timeout(), Some(START + silence), "no time is added");
}

#[test]
fn request_fails_when_the_time_of_a_pong_is_over_after_the_process_did_not_run() {
    let Config { request_timeout, pong_timeout, .. } = Config::default();
    let config = Config::default().check_timeout(Duration::MAX);
    let mut machine = member_by(config, r#"{"message_bytes":100,"frame_bytes":1000}"#);
    machine.members("r", START).unwrap();
    assert_eq!(machine.poll_timeout(), Some(START + request_timeout));
    let now = START + request_timeout + Duration::from_secs(2);
    machine.handle_timeout(now);
    machine.handle_alive(now);
    assert!(machine.poll_answer().is_none());
    assert_eq!(machine.poll_timeout(), Some(now + pong_timeout));
    machine.handle_timeout(now + pong_timeout);
    assert!(matches!(machine.poll_answer(), Some((_, Err(ClientError::Timeout)))));
}

#[test]
fn server_that_was_not_read_has_its_whole_time_again() {
    let config = Config::default();
    let ping_after = config.ping_after;
    let mut machine = machine(config);
    welcome(&mut machine, START);
    machine.handle_text(DIRECT, START).unwrap();
    assert_eq!(machine.poll_timeout(), None, "the application is waited for");
    let later = START + Duration::from_secs(50);
    assert!(machine.poll_event().is_some());
    assert_eq!(machine.poll_timeout(), Some(START), "at once");
    machine.handle_timeout(later);
    assert_eq!(machine.poll_action(), None, "no ping");
    assert_eq!(machine.poll_timeout(), Some(later + ping_after));
}
