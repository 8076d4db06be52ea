"""Folders and files that belong to one account alone: made, checked, handed over from an older release, held open.

What another user may have planted is refused, never followed and never repaired.
"""

from __future__ import annotations

import fcntl
import fnmatch
import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path

from scheduler.embedded.process import Account, ServerFailed, Untrusted

# Whom servers run as when we are root: nobody else, so what they own is theirs alone. systemd leaves 60578-61183 free.
SERVERS = Account(60_600, 60_600)
UNPRIVILEGED = ("postgres", "nobody")
DESCRIPTORS = Path("/proc/self/fd")
ELSEWHERE = "choose another folder with SCHEDULER_DATA_DIR"


class Held:
    """A folder of `account` (None: ours), held open, to be closed.

    `seen` is how a program finds it that inherits `descriptor` and runs as that account, whatever lies above it.
    """

    def __init__(self, path: Path, account: Account | None) -> None:
        first = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            self.descriptor = fcntl.fcntl(first, fcntl.F_DUPFD_CLOEXEC, 3)  # below lie a child's standard streams
        finally:
            os.close(first)
        self.seen = path
        if account and not account.reaches(path):
            self.seen = DESCRIPTORS / str(self.descriptor)
            if not DESCRIPTORS.exists():
                self.close()
                raise ServerFailed(f"uid {account.uid} cannot reach {path}; {ELSEWHERE}")

    def close(self) -> None:
        """Those who have inherited it keep it."""
        os.close(self.descriptor)


def former_owners() -> set[int]:
    """Whose the data may be that older releases made as root."""
    return {0, *(account.uid for account in _accounts(UNPRIVILEGED))}


def helper() -> Account:
    """An account that the system knows and that is not root, for a program that asks for its own name."""
    for account in (*_accounts(UNPRIVILEGED), *(Account(user.pw_uid, user.pw_gid) for user in pwd.getpwall())):
        if account.uid:
            return account
    raise ServerFailed(
        "PostgreSQL's initdb refuses root, and this system has no other account; add one, be another user"
    )


def _accounts(names: Iterable[str]) -> list[Account]:
    found = []
    for name in names:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        found.append(Account(user.pw_uid, user.pw_gid))
    return found


def take_data_dir(path: Path) -> None:
    """Make it, or see that nobody but us and root can plant anything in it. Raises Untrusted, OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid not in {0, os.geteuid()}:
        raise Untrusted(f"{path} belongs to uid {found.st_uid}, not to us; be that user, or {ELSEWHERE}")
    if found.st_mode & stat.S_IWOTH:
        raise Untrusted(f"every user may write in {path}, and so plant data; `chmod o-w` it, or {ELSEWHERE}")


def take(path: Path, account: Account | None, former: Iterable[int] = (), marks: Iterable[str] = ("*",)) -> None:
    """See that the folder is the account's (None: ours) and nobody else may look into it; it is made when missing.

    What belongs to one of the `former` owners is handed over. Raises Untrusted for whatever else stands there, such as
    a folder that is not empty and has no name in it that fits one of the `marks`.
    """
    own = account.uid if account else os.geteuid()
    if not os.path.lexists(path):
        path.mkdir(mode=0o700)
        former = {*former, os.geteuid()}
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise Untrusted(f"{path} is no folder of ours ({error.strerror}); remove it, or {ELSEWHERE}") from error
    try:
        owner = os.fstat(folder).st_uid
        if owner != own and owner not in former:
            remedy = f"be that user, remove it, `chown -R {own}` it if it is yours, or {ELSEWHERE}"
            raise Untrusted(f"{path} belongs to uid {owner}, not to uid {own}; {remedy}")
        there = sorted(os.listdir(folder))  # noqa: PTH208  (of a descriptor)
        if there and not any(fnmatch.filter(there, mark) for mark in marks):
            raise Untrusted(f"{path} holds no data of this server, but {there[0]}; move it away, or {ELSEWHERE}")
        if account and owner != own:
            _hand_over(path, folder, account)
        os.fchmod(folder, 0o700)
    except OSError as error:
        raise ServerFailed(
            f"{path} cannot be made uid {own}'s own: {error}; be another user, or {ELSEWHERE}"
        ) from error
    finally:
        os.close(folder)


def _hand_over(path: Path, folder: int, account: Account) -> None:
    """The folder itself last: a hand-over that was interrupted is done again."""
    os.fchmod(folder, 0o700)
    for _, folders, files, inside in os.fwalk(".", dir_fd=folder):
        for name in (*folders, *files):
            found = os.stat(name, dir_fd=inside, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                raise Untrusted(f"{name} in {path} has another name elsewhere (a hard link); remove it")
            os.chown(name, account.uid, account.gid, dir_fd=inside, follow_symlinks=False)
    os.fchown(folder, account.uid, account.gid)


def write(path: Path, text: str, account: Account | None) -> None:
    """Put a file there that the account (None: we) alone may read, whole or not at all; never through a link."""
    aside = path.with_name(f"{path.name}.new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text)
        if account:
            os.fchown(file.fileno(), account.uid, account.gid)
    aside.replace(path)
