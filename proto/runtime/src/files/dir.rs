//! A directory of its owner alone, and the operations on what is in it.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postern_proto::secret::random_array;
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::FileError;
use crate::vault::Vault;

const DIRECTORY_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;
/// Rights of group and others, none of which may be set.
const FOREIGN_RIGHTS: u32 = 0o077;
/// End of the names of files that are being written; a process that is killed leaves one behind.
const NEW_SUFFIX: &str = ".new";
/// How often a file is opened again that something else took the place of meanwhile. Nobody of ours replaces what is written to in place more
/// than once in a while.
const SWAPS: usize = 64;
/// How often the names of a file are looked at. The kernel finds the name first and counts the names then: a link that goes in between would be
/// taken for the only one. Whoever makes it come and go has to meet that moment every time.
const LOOKS: usize = 8;
/// `sun_path` holds 108 bytes, the last of which is a zero.
const MAX_SOCKET_PATH: usize = 107;

/// An open directory whose owner and mode were checked.
#[derive(Debug)]
pub struct Dir {
    pub(super) fd: OwnedFd,
    path: PathBuf,
    /// What seals the secrets in it, and where in the home it is; `None` outside a home.
    pub(super) vault: Option<(Arc<Vault>, String)>,
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub name: String,
    pub is_dir: bool,
}

impl Dir {
    /// Opens `path`, which must belong to this user and be closed to all others.
    ///
    /// # Errors
    /// Where it is missing, is no directory, or could be used by others.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let dir = Self::open_unchecked(path)?;
        dir.check()?;
        Ok(dir)
    }

    /// Opens `path`, made with its parents if it is missing. An empty directory is taken over: it becomes this user's, mode 0700.
    ///
    /// # Errors
    /// Where it cannot be made or taken over, or is not empty and could be used by others.
    pub fn open_or_take_over(path: &Path) -> Result<Self, FileError> {
        match DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path) {
            Ok(()) => {}
            // What is there is looked at below: it may be a symbolic link or a file.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(FileError::io("make", path, error)),
        }
        let dir = Self::open_unchecked(path)?;
        match dir.check() {
            Err(fault @ (FileError::Mode { .. } | FileError::Owner { .. })) => {
                if !dir.entries()?.is_empty() || rustix::fs::fchown(&dir.fd, Some(rustix::process::geteuid()), None).is_err() {
                    return Err(fault);
                }
                rustix::fs::fchmod(&dir.fd, Mode::from_raw_mode(DIRECTORY_MODE)).map_err(|e| FileError::io("chmod", path, e))?;
                // Whoever could write here until now may have put something in meanwhile.
                if !dir.entries()?.is_empty() {
                    return Err(fault);
                }
                dir.check()?;
                Ok(dir)
            }
            other => other.map(|()| dir),
        }
    }

    fn open_unchecked(path: &Path) -> Result<Self, FileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned(), vault: None }),
            Err(errno @ (Errno::LOOP | Errno::NOTDIR)) => Err(match rustix::fs::lstat(path) {
                Ok(stat) => FileError::Kind {
                    path: path.to_owned(),
                    found: kind(FileType::from_raw_mode(stat.st_mode)),
                    wanted: "a directory",
                },
                Err(_) => FileError::io("open", path, errno),
            }),
            Err(errno) => Err(FileError::io("open", path, errno)),
        }
    }

    fn check(&self) -> Result<(), FileError> {
        let stat = rustix::fs::fstat(&self.fd).map_err(|e| FileError::io("look at", &self.path, e))?;
        check_rights(&stat, &self.path, DIRECTORY_MODE)
    }

    /// Where it was when it was opened; for messages and for other programs.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the directory `name`; `None` where there is nothing of that name.
    ///
    /// # Errors
    /// Where it is no directory or could be used by others.
    pub fn dir(&self, name: &str) -> Result<Option<Self>, FileError> {
        let path = self.child_path(name)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => {
                let dir = Self { fd, path, vault: self.vault_of(name) };
                dir.check()?;
                Ok(Some(dir))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.classify(errno, "open", name, path, "a directory")),
        }
    }

    /// Opens the directory `name`, made if it is missing.
    ///
    /// # Errors
    /// As [`Dir::dir`], and where it cannot be made.
    pub fn dir_or_create(&self, name: &str) -> Result<Self, FileError> {
        match self.create_dir(name) {
            Err(FileError::Exists { path }) => {
                self.dir(name)?.ok_or_else(|| FileError::io("open", &path, io::Error::from(io::ErrorKind::NotFound)))
            }
            other => other,
        }
    }

    /// Makes the directory `name`.
    ///
    /// # Errors
    /// [`FileError::Exists`] where anything of that name is there.
    pub fn create_dir(&self, name: &str) -> Result<Self, FileError> {
        let path = self.child_path(name)?;
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(DIRECTORY_MODE)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(FileError::Exists { path }),
            Err(errno) => return Err(FileError::io("make", &path, errno)),
        }
        self.sync()?;
        self.dir(name)?.ok_or_else(|| FileError::io("open", &path, io::Error::from(io::ErrorKind::NotFound)))
    }

    /// The content of the file `name`; `None` where there is none. It is wiped from memory when dropped.
    ///
    /// # Errors
    /// Where it is no regular file, could be used by others, or is longer than `limit`.
    pub fn read(&self, name: &str, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
        // Without NONBLOCK, opening a FIFO would wait for its writer.
        let Some(file) = self.open_file(name, OFlags::RDONLY | OFlags::NONBLOCK)? else { return Ok(None) };
        self.read_file(&file, name, limit).map(Some)
    }

    pub(super) fn read_file(&self, file: &File, name: &str, limit: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
        let path = self.path.join(name);
        let length = file.metadata().map_err(|e| FileError::io("look at", &path, e))?.len();
        if length > limit as u64 {
            return Err(FileError::TooLong { path, limit });
        }
        // Room for all of it from the start: a vector that grows leaves unwiped copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
        file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|e| FileError::io("read", &path, e))?;
        if bytes.len() > limit {
            return Err(FileError::TooLong { path, limit });
        }
        Ok(bytes)
    }

    /// Puts `bytes` in the place of the file `name`: after a crash at any moment, either the old or the new content is there.
    ///
    /// # Errors
    /// Where the new file cannot be written, or a directory stands in its place.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        self.write_with(name, bytes, RenameFlags::empty())
    }

    /// As [`Dir::write`], but only where there is nothing of that name.
    ///
    /// # Errors
    /// [`FileError::Exists`] where there is.
    pub fn write_new(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        self.write_with(name, bytes, RenameFlags::NOREPLACE)
    }

    pub(super) fn write_with(&self, name: &str, bytes: &[u8], flags: RenameFlags) -> Result<(), FileError> {
        let path = self.child_path(name)?;
        let temporary = temporary_name(name);
        let open = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, temporary.as_str(), open, Mode::from_raw_mode(FILE_MODE))
            .map_err(|e| FileError::io("write", &path, e))?;
        let mut file = File::from(fd);
        let written =
            file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| FileError::io("write", &path, e)).and_then(|()| {
                rustix::fs::renameat_with(&self.fd, temporary.as_str(), &self.fd, name, flags).map_err(|errno| match errno {
                    Errno::EXIST => FileError::Exists { path: path.clone() },
                    errno => FileError::io("replace", &path, errno),
                })
            });
        if written.is_err() {
            // The first error is the one to report.
            let _ = rustix::fs::unlinkat(&self.fd, temporary.as_str(), AtFlags::empty());
        }
        written.and_then(|()| self.sync())
    }

    /// Opens the file `name` to add to its end, made if it is missing.
    ///
    /// # Errors
    /// Where it is no regular file, has a second name, or could be used by others.
    pub fn append(&self, name: &str) -> Result<File, FileError> {
        self.open_or_create_file(name, OFlags::WRONLY | OFlags::APPEND)
    }

    /// Opens the file `name` for reading and writing in place, made if it is missing.
    ///
    /// # Errors
    /// As [`Dir::append`].
    pub fn open_in_place(&self, name: &str) -> Result<File, FileError> {
        self.open_or_create_file(name, OFlags::RDWR)
    }

    /// Opens the file `name` for reading; `None` where it is missing.
    ///
    /// # Errors
    /// As [`Dir::append`].
    pub fn open_to_look(&self, name: &str) -> Result<Option<File>, FileError> {
        self.open_file(name, OFlags::RDONLY | OFlags::NONBLOCK)
    }

    fn open_or_create_file(&self, name: &str, flags: OFlags) -> Result<File, FileError> {
        self.open_to_write(name, flags | OFlags::CREATE)?
            .ok_or_else(|| FileError::io("open", &self.path.join(name), io::Error::from(io::ErrorKind::NotFound)))
    }

    /// Opens the file `name` to write to it where it stands; `None` where it is missing and not to be made.
    ///
    /// What was opened is looked at again by its name, which must be its only one *then*: a link to another file that was there when it was
    /// opened, and gone when its names were counted, would lead elsewhere.
    pub(super) fn open_to_write(&self, name: &str, flags: OFlags) -> Result<Option<File>, FileError> {
        let path = self.child_path(name)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        for _ in 0..SWAPS {
            let file = match rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(FILE_MODE)) {
                Ok(fd) => self.checked_file(fd, path.clone())?,
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(self.classify(errno, "open", name, path, "a file")),
            };
            if self.is_its_only_name(name, &path, &file)? {
                return Ok(Some(file));
            }
        }
        Err(FileError::io("open", &path, io::Error::other("it is replaced again and again")))
    }

    /// Whether `file` is what has this name now, and has no other; an error where it has.
    fn is_its_only_name(&self, name: &str, path: &Path, file: &File) -> Result<bool, FileError> {
        let fault = |errno: Errno| FileError::io("look at", path, errno);
        let held = rustix::fs::fstat(file).map_err(fault)?;
        for _ in 0..LOOKS {
            match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) if (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino) => return Ok(false),
                Ok(found) if found.st_nlink > 1 => return Err(FileError::HardLink { path: path.to_owned() }),
                Ok(_) => {}
                Err(Errno::NOENT) => return Ok(false),
                Err(errno) => return Err(fault(errno)),
            }
        }
        Ok(true)
    }

    pub(super) fn open_file(&self, name: &str, flags: OFlags) -> Result<Option<File>, FileError> {
        let path = self.child_path(name)?;
        match rustix::fs::openat(&self.fd, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => self.checked_file(fd, path).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.classify(errno, "open", name, path, "a file")),
        }
    }

    fn checked_file(&self, fd: OwnedFd, path: PathBuf) -> Result<File, FileError> {
        let stat = rustix::fs::fstat(&fd).map_err(|e| FileError::io("look at", &path, e))?;
        let found = FileType::from_raw_mode(stat.st_mode);
        if found != FileType::RegularFile {
            return Err(FileError::Kind { path, found: kind(found), wanted: "a file" });
        }
        check_rights(&stat, &path, FILE_MODE)?;
        if stat.st_nlink > 1 {
            return Err(FileError::HardLink { path });
        }
        Ok(File::from(fd))
    }

    /// Gives the file `name` the name `other`, in the place of what had that; whether there was one.
    ///
    /// # Errors
    /// Where it cannot be renamed.
    pub fn rename(&self, name: &str, other: &str) -> Result<bool, FileError> {
        let path = self.child_path(name)?;
        self.child_path(other)?;
        match rustix::fs::renameat(&self.fd, name, &self.fd, other) {
            Ok(()) => self.sync().map(|()| true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(FileError::io("rename", &path, errno)),
        }
    }

    /// Removes the file (or socket) `name`; whether there was one. A symbolic link is removed, not followed.
    ///
    /// # Errors
    /// Where it is a directory or cannot be removed.
    pub fn remove(&self, name: &str) -> Result<bool, FileError> {
        self.unlink(name, AtFlags::empty())
    }

    /// Removes the empty directory `name`; whether there was one.
    ///
    /// # Errors
    /// Where it is not empty or cannot be removed.
    pub fn remove_dir(&self, name: &str) -> Result<bool, FileError> {
        self.unlink(name, AtFlags::REMOVEDIR)
    }

    fn unlink(&self, name: &str, flags: AtFlags) -> Result<bool, FileError> {
        let path = self.child_path(name)?;
        match rustix::fs::unlinkat(&self.fd, name, flags) {
            Ok(()) => self.sync().map(|()| true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(FileError::io("remove", &path, errno)),
        }
    }

    /// Whether anything of that name is here.
    ///
    /// # Errors
    /// Where the directory cannot be searched.
    pub fn contains(&self, name: &str) -> Result<bool, FileError> {
        let path = self.child_path(name)?;
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(FileError::io("look at", &path, errno)),
        }
    }

    /// What is in it, sorted by name. Names that are not UTF-8 are nothing of ours and come out mangled.
    ///
    /// # Errors
    /// Where the directory cannot be read.
    pub fn entries(&self) -> Result<Vec<Entry>, FileError> {
        let fault = |errno: Errno| FileError::io("list", &self.path, errno);
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if matches!(name.as_str(), "." | "..") {
                continue;
            }
            let is_dir = match entry.file_type() {
                FileType::Unknown => rustix::fs::statat(&self.fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
                found => found == FileType::Directory,
            };
            entries.push(Entry { name, is_dir });
        }
        entries.sort();
        Ok(entries)
    }

    /// Waits for, and holds, the lock on this directory that short changes to several files are made under.
    ///
    /// # Errors
    /// Where the system cannot lock it.
    pub fn lock_changes(&self) -> Result<ChangeLock, FileError> {
        // A descriptor of its own, because locks belong to open descriptions.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty()).map_err(|e| FileError::io("open", &self.path, e))?;
        rustix::fs::flock(&fd, FlockOperation::LockExclusive).map_err(|e| FileError::io("lock", &self.path, e))?;
        Ok(ChangeLock { _fd: fd })
    }

    /// A path by which to bind or connect the Unix socket `name`, also where the directory's own path is too long for one.
    /// It is good for as long as this value lives.
    ///
    /// # Errors
    /// [`FileError::Name`].
    pub fn socket_path(&self, name: &str) -> Result<PathBuf, FileError> {
        let path = self.child_path(name)?;
        if path.as_os_str().len() <= MAX_SOCKET_PATH {
            return Ok(path);
        }
        Ok(PathBuf::from(format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd())))
    }

    /// Whether `name` is one that a write of `base` uses until it is finished.
    #[must_use]
    pub fn is_unfinished_write(name: &str, base: &str) -> bool {
        name.strip_prefix('.')
            .and_then(|rest| rest.strip_prefix(base))
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|rest| rest.strip_suffix(NEW_SUFFIX))
            .is_some_and(|random| random.len() == 16 && random.bytes().all(|b| b.is_ascii_hexdigit()))
    }

    /// A second handle of the same directory.
    ///
    /// # Errors
    /// Where the process has no descriptor left.
    pub fn try_clone(&self) -> Result<Self, FileError> {
        let fd = self.fd.try_clone().map_err(|e| FileError::io("open", &self.path, e))?;
        Ok(Self { fd, path: self.path.clone(), vault: self.vault.clone() })
    }

    pub(super) fn sync(&self) -> Result<(), FileError> {
        rustix::fs::fsync(&self.fd).map_err(|e| FileError::io("sync", &self.path, e))
    }

    pub(super) fn child_path(&self, name: &str) -> Result<PathBuf, FileError> {
        if name.is_empty() || matches!(name, "." | "..") || name.bytes().any(|b| matches!(b, b'/' | 0)) {
            return Err(FileError::Name { name: name.chars().take(80).collect() });
        }
        Ok(self.path.join(name))
    }

    fn classify(&self, errno: Errno, action: &'static str, name: &str, path: PathBuf, wanted: &'static str) -> FileError {
        // ISDIR, NXIO: a directory or a FIFO was opened for writing.
        if matches!(errno, Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO)
            && let Ok(stat) = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
        {
            return FileError::Kind { path, found: kind(FileType::from_raw_mode(stat.st_mode)), wanted };
        }
        FileError::io(action, &path, errno)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// See [`Dir::lock_changes`]; dropping it gives the lock back.
#[derive(Debug)]
pub struct ChangeLock {
    _fd: OwnedFd,
}

/// A name that [`Dir::is_unfinished_write`] knows.
pub(super) fn temporary_name(name: &str) -> String {
    format!(".{name}.{:016x}{NEW_SUFFIX}", u64::from_le_bytes(random_array()))
}

fn check_rights(stat: &Stat, path: &Path, wanted: u32) -> Result<(), FileError> {
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid != user {
        return Err(FileError::Owner { path: path.to_owned(), owner: stat.st_uid, user, wanted });
    }
    if stat.st_mode & FOREIGN_RIGHTS != 0 {
        return Err(FileError::Mode { path: path.to_owned(), mode: stat.st_mode & 0o7777, wanted });
    }
    Ok(())
}

const fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link",
        FileType::Directory => "a directory",
        FileType::Fifo => "a named pipe",
        FileType::Socket => "a socket",
        FileType::RegularFile => "a file",
        _ => "a device",
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
