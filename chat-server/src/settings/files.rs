//! Reads of the files that settings name.

use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The largest file, in bytes: a device such as `/dev/zero` has no end.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// How long a pipe may take: a reload would wait without end for one that nobody writes to.
const PIPE_TIME: Duration = Duration::from_secs(5);

/// How long the reader of such a pipe may take to end. One whose writer does not close the pipe stays.
const PIPE_END: Duration = Duration::from_secs(1);

/// # Errors
/// The file cannot be read, is too large, or is a pipe that was not written and closed in time.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    if fs::metadata(path)?.is_file() { read_to_end(path) } else { read_pipe(path) }
}

/// As [`read`], of a text.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let not_utf8 = |_| Error::new(ErrorKind::InvalidData, "it is not UTF-8");
    String::from_utf8(read(path)?).map_err(not_utf8)
}

/// What is in a regular file: a pipe can be read only once.
pub(super) fn contents(path: &Path) -> Option<Vec<u8>> {
    let is_file = fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    is_file.then(|| read_to_end(path).ok()).flatten()
}

fn read_to_end(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::new(ErrorKind::FileTooLarge, "it has more than 16 MiB"));
    }
    Ok(bytes)
}

/// Reads what is no regular file, such as the pipe of `--config <(…)`. To open one blocks until someone
/// writes to it, so a thread does that.
fn read_pipe(path: &Path) -> Result<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    let file = PathBuf::from(path);
    let reader = move || drop(sender.send(read_to_end(&file)));
    thread::Builder::new().name("pipe".to_owned()).spawn(reader)?;
    receiver.recv_timeout(PIPE_TIME).unwrap_or_else(|_| {
        // A writer ends the wait of that thread, which then finds the end. To open a pipe for both waits
        // for nobody. The next attempt must find no reader that takes a part of the file from it.
        drop(OpenOptions::new().read(true).write(true).open(path));
        let _ = receiver.recv_timeout(PIPE_END);
        let why = format!("nobody has written it and closed it within {PIPE_TIME:?}");
        Err(Error::new(ErrorKind::TimedOut, why))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn pipe_is_read_while_it_has_a_writer() {
        let pipe = std::env::temp_dir().join(format!("chat-pipe-{}", std::process::id()));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let file = pipe.clone();
        let writer = thread::spawn(move || fs::write(file, "port = 1"));
        assert_eq!(read_text(&pipe).unwrap(), "port = 1");
        writer.join().unwrap().unwrap();
        let error = read(&pipe).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        // The reader of that attempt takes nothing from the next one.
        let file = pipe.clone();
        let writer = thread::spawn(move || fs::write(file, "port = 2"));
        assert_eq!(read_text(&pipe).unwrap(), "port = 2");
        writer.join().unwrap().unwrap();
        fs::remove_file(pipe).unwrap();
    }

    #[test]
    fn directory_and_device_without_end_are_errors() {
        assert!(read(&std::env::temp_dir()).is_err());
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(read(Path::new("/dev/null")).unwrap(), b"");
    }
}
