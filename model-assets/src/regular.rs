//! Opening files that somebody else may have put there: regular files only.
//!
//! Opening a named pipe waits for a writer that may never come, a device may never end, and opening some devices alone has
//! an effect. A build, an export or an app must not hang on what lies at a path.
//!
//! **Invariant:** what [`open`] returns is a regular file by its descriptor, and no call here waits for another process.

use std::{
    fs::{File, FileType, OpenOptions},
    io::{self, Read as _},
    path::Path,
    time::SystemTime,
};

/// Opens a regular file for reading, also through links.
///
/// # Errors
/// What the system says, or [`io::ErrorKind::InvalidInput`] that names what is there instead.
pub fn open(path: impl AsRef<Path>) -> io::Result<File> {
    // Looked at first, because opening a device may do something. It is looked at again once it is open.
    demand(std::fs::metadata(&path)?.file_type())?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        // Whoever puts a named pipe there in between does not make this process wait.
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        options.custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(&path)?;
    check(&file)?;
    Ok(file)
}

/// Whether an open file is a regular one.
///
/// # Errors
/// As [`open`].
pub fn check(file: &File) -> io::Result<()> {
    demand(file.metadata()?.file_type())
}

/// Reads a whole regular file of at most so many bytes.
///
/// # Errors
/// As [`open`], or [`io::ErrorKind::FileTooLarge`].
pub fn read(path: impl AsRef<Path>, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte past the limit, so that a file that is too long is told from one that just fits.
    open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let message = format!("got more than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// What shows that somebody writes to a file: its length, and when it was last written to.
///
/// # Errors
/// What the system says.
pub fn stamp(file: &File) -> io::Result<(u64, SystemTime)> {
    let data = file.metadata()?;
    Ok((data.len(), data.modified()?))
}

fn demand(kind: FileType) -> io::Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    let got = if kind.is_dir() { "a directory" } else { special(kind) };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("got {got}, expected a regular file")))
}

#[cfg(unix)]
fn special(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;
    if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else {
        "a special file"
    }
}

#[cfg(not(unix))]
fn special(_: FileType) -> &'static str {
    "a special file"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    fn named_pipe(path: &Path) {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_no_regular_file_is_refused_by_name_and_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, socket) = (folder.path().join("pipe"), folder.path().join("socket"));
        named_pipe(&pipe);
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for (path, got) in [
            (pipe.as_path(), "a named pipe"),
            (link.as_path(), "a named pipe"),
            (socket.as_path(), "a socket"),
            (Path::new("/dev/zero"), "a device"),
            (folder.path(), "a directory"),
        ] {
            for error in [open(path).unwrap_err(), read(path, 10).unwrap_err()] {
                assert_eq!(error.to_string(), format!("got {got}, expected a regular file"));
            }
        }
        assert_eq!(open(folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_pipe_that_came_between_the_look_and_the_opening_is_seen_by_its_descriptor() {
        use std::os::unix::fs::OpenOptionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        named_pipe(&pipe);
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&pipe).unwrap();
        assert_eq!(check(&file).unwrap_err().to_string(), "got a named pipe, expected a regular file");
    }

    #[test]
    fn a_file_is_read_through_a_link_and_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        #[cfg(unix)]
        {
            let link = folder.path().join("link");
            std::os::unix::fs::symlink("file", &link).unwrap();
            assert_eq!(read(link, 5).unwrap(), b"12345");
        }
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        let error = read(&path, 4).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::FileTooLarge, "got more than 4 bytes")
        );
    }
}
