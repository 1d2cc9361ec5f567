//! Positional reading: the verifier never maps a file, so a file that shrinks underneath is an error, not a
//! signal, and it never seeks, so the same open file can be verified and then loaded.

use std::fs::File;
use std::io;

/// A source of bytes that can be read at an offset.
pub trait ReadAt {
    /// Length of the source, bytes.
    ///
    /// # Errors
    /// When the operating system cannot tell.
    fn len(&self) -> io::Result<u64>;

    /// Whether the source holds no byte.
    ///
    /// # Errors
    /// When the operating system cannot tell.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the source ends first, otherwise what the system says.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn len(&self) -> io::Result<u64> {
        u64::try_from(<[u8]>::len(self)).map_err(io::Error::other)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..))
            .and_then(|rest| rest.get(..buf.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(from);
        Ok(())
    }
}

impl ReadAt for &[u8] {
    fn len(&self) -> io::Result<u64> {
        ReadAt::len(*self)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        ReadAt::read_exact_at(*self, buf, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> io::Result<u64> {
        ReadAt::len(self.as_slice())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        ReadAt::read_exact_at(self.as_slice(), buf, offset)
    }
}

impl ReadAt for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    #[cfg(unix)]
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buf, offset)
    }

    #[cfg(windows)]
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            let read = std::os::windows::fs::FileExt::seek_read(self, buf, offset)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buf = buf.get_mut(read..).unwrap_or_default();
            offset = offset.saturating_add(u64::try_from(read).map_err(io::Error::other)?);
        }
        Ok(())
    }
}
