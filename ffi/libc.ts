import { constants } from "node:os";
import { library } from "./library.ts";
import { struct } from "./layout.ts";

/** libc: memory mappings, epoll, files below a directory, and of sockets what Deno does not offer. Names are C's; `Async` marks a call that runs on a thread of its own. */
export const libc = library({ sonames: ["libc.so.6"], package: "libc6" }, {
  __errno_location: { parameters: [], result: "pointer" },
  mmap: {
    parameters: [
      "pointer", // void *addr
      "usize", // size_t length
      "i32", // int prot
      "i32", // int flags
      "i32", // int fd
      "i64", // off_t offset
    ],
    result: "pointer",
  },
  munmap: {
    parameters: [
      "pointer", // void *addr
      "usize", // size_t length
    ],
    result: "i32",
  },
  mincore: {
    parameters: [
      "pointer", // void *addr
      "usize", // size_t length
      "buffer", // unsigned char *vec
    ],
    result: "i32",
  },
  getpagesize: {
    parameters: [],
    result: "i32",
  },
  epoll_create1: {
    parameters: [
      "i32", // int flags
    ],
    result: "i32",
  },
  epoll_ctl: {
    parameters: [
      "i32", // int epfd
      "i32", // int op
      "i32", // int fd
      "pointer", // struct epoll_event *event
    ],
    result: "i32",
  },
  epoll_wait: {
    parameters: [
      "i32", // int epfd
      "pointer", // struct epoll_event *events
      "i32", // int maxevents
      "i32", // int timeout
    ],
    result: "i32",
  },
  epollWaitAsync: {
    name: "epoll_wait",
    parameters: [
      "i32", // int epfd
      "pointer", // struct epoll_event *events
      "i32", // int maxevents
      "i32", // int timeout
    ],
    result: "i32",
    nonblocking: true,
  },
  eventfd: {
    parameters: [
      "u32", // unsigned int initval
      "i32", // int flags
    ],
    result: "i32",
  },
  eventfd_write: {
    parameters: [
      "i32", // int fd
      "u64", // eventfd_t value
    ],
    result: "i32",
  },
  eventfd_read: {
    parameters: [
      "i32", // int fd
      "pointer", // eventfd_t *value
    ],
    result: "i32",
  },
  fcntl: {
    parameters: [
      "i32", // int fd
      "i32", // int op
      "i32", // ... int, for F_SETFL
    ],
    result: "i32",
  },
  getpwnam_r: {
    parameters: [
      "buffer", // const char *name
      "pointer", // struct passwd *pwd
      "buffer", // char *buf
      "usize", // size_t buflen
      "buffer", // struct passwd **result
    ],
    result: "i32",
  },
  getpwuid_r: {
    parameters: [
      "u32", // uid_t uid
      "pointer", // struct passwd *pwd
      "buffer", // char *buf
      "usize", // size_t buflen
      "buffer", // struct passwd **result
    ],
    result: "i32",
  },
  getgrnam_r: {
    parameters: [
      "buffer", // const char *name
      "pointer", // struct group *grp
      "buffer", // char *buf
      "usize", // size_t buflen
      "buffer", // struct group **result
    ],
    result: "i32",
  },
  // prctl() is variadic, which passes integers as any other call does.
  prctl: {
    parameters: [
      "i32", // int op
      "u64", // ... unsigned long
      "u64", // ... unsigned long
      "u64", // ... unsigned long
      "u64", // ... unsigned long
    ],
    result: "i32",
  },
  // glibc has all threads of the process make these three calls (nptl(7)).
  setgroups: {
    parameters: [
      "usize", // size_t size
      "pointer", // const gid_t *list
    ],
    result: "i32",
  },
  setresgid: {
    parameters: [
      "u32", // gid_t rgid
      "u32", // gid_t egid
      "u32", // gid_t sgid
    ],
    result: "i32",
  },
  setresuid: {
    parameters: [
      "u32", // uid_t ruid
      "u32", // uid_t euid
      "u32", // uid_t suid
    ],
    result: "i32",
  },
  getrlimit: {
    parameters: [
      "i32", // int resource
      "pointer", // struct rlimit *rlim
    ],
    result: "i32",
  },
  setrlimit: {
    parameters: [
      "i32", // int resource
      "pointer", // const struct rlimit *rlim
    ],
    result: "i32",
  },
  close: {
    parameters: [
      "i32", // int fd
    ],
    result: "i32",
  },
  closeAsync: {
    name: "close",
    parameters: [
      "i32", // int fd
    ],
    result: "i32",
    nonblocking: true,
  },
  // openat2 has no wrapper in glibc. syscall() is variadic, which passes integers as any other call does.
  syscall: {
    parameters: [
      "i64", // long number
      "i64", // int dirfd
      "pointer", // const char *pathname
      "pointer", // struct open_how *how
      "i64", // size_t size
    ],
    result: "i64",
  },
  openat: {
    parameters: [
      "i32", // int dirfd
      "buffer", // const char *pathname
      "i32", // int flags
      "u32", // ... mode_t, for O_CREAT and O_TMPFILE
    ],
    result: "i32",
  },
  mkdirat: {
    parameters: [
      "i32", // int dirfd
      "buffer", // const char *pathname
      "u32", // mode_t mode
    ],
    result: "i32",
  },
  linkat: {
    parameters: [
      "i32", // int olddirfd
      "buffer", // const char *oldpath
      "i32", // int newdirfd
      "buffer", // const char *newpath
      "i32", // int flags
    ],
    result: "i32",
  },
  flock: {
    parameters: [
      "i32", // int fd
      "i32", // int op
    ],
    result: "i32",
  },
  geteuid: {
    parameters: [],
    result: "u32",
  },
  fdopendir: {
    parameters: [
      "i32", // int fd
    ],
    result: "pointer",
  },
  readdir: {
    parameters: [
      "pointer", // DIR *dirp
    ],
    result: "pointer",
  },
  closedir: {
    parameters: [
      "pointer", // DIR *dirp
    ],
    result: "i32",
  },
  pread: {
    parameters: [
      "i32", // int fd
      "pointer", // void *buf
      "usize", // size_t count
      "i64", // off_t offset
    ],
    result: "isize",
  },
  preadAsync: {
    name: "pread",
    parameters: [
      "i32", // int fd
      "pointer", // void *buf
      "usize", // size_t count
      "i64", // off_t offset
    ],
    result: "isize",
    nonblocking: true,
  },
  pwrite: {
    parameters: [
      "i32", // int fd
      "pointer", // const void *buf
      "usize", // size_t count
      "i64", // off_t offset
    ],
    result: "isize",
  },
  pwriteAsync: {
    name: "pwrite",
    parameters: [
      "i32", // int fd
      "pointer", // const void *buf
      "usize", // size_t count
      "i64", // off_t offset
    ],
    result: "isize",
    nonblocking: true,
  },
  fsync: {
    parameters: [
      "i32", // int fd
    ],
    result: "i32",
  },
  fsyncAsync: {
    name: "fsync",
    parameters: [
      "i32", // int fd
    ],
    result: "i32",
    nonblocking: true,
  },
  renameat: {
    parameters: [
      "i32", // int olddirfd
      "buffer", // const char *oldpath
      "i32", // int newdirfd
      "buffer", // const char *newpath
    ],
    result: "i32",
  },
  unlinkat: {
    parameters: [
      "i32", // int dirfd
      "buffer", // const char *pathname
      "i32", // int flags
    ],
    result: "i32",
  },
  fchown: {
    parameters: [
      "i32", // int fd
      "u32", // uid_t owner
      "u32", // gid_t group
    ],
    result: "i32",
  },
  fchmod: {
    parameters: [
      "i32", // int fd
      "u32", // mode_t mode
    ],
    result: "i32",
  },
  statx: {
    parameters: [
      "i32", // int dirfd
      "buffer", // const char *pathname
      "i32", // int flags
      "u32", // unsigned int mask
      "pointer", // struct statx *statxbuf
    ],
    result: "i32",
  },
  socket: {
    parameters: [
      "i32", // int domain
      "i32", // int type
      "i32", // int protocol
    ],
    result: "i32",
  },
  bind: {
    parameters: [
      "i32", // int sockfd
      "buffer", // const struct sockaddr *addr
      "u32", // socklen_t addrlen
    ],
    result: "i32",
  },
  connect: {
    parameters: [
      "i32", // int sockfd
      "buffer", // const struct sockaddr *addr
      "u32", // socklen_t addrlen
    ],
    result: "i32",
  },
  ioctl: {
    parameters: [
      "i32", // int fd
      "u64", // unsigned long op
      "pointer", // ... struct ifreq *, for the requests of netdevice(7) and SIOCETHTOOL
    ],
    result: "i32",
  },
  if_nameindex: { parameters: [], result: "pointer" },
  if_freenameindex: {
    parameters: [
      "pointer", // struct if_nameindex *ptr
    ],
    result: "void",
  },
  sendmmsg: {
    parameters: [
      "i32", // int sockfd
      "pointer", // struct mmsghdr *msgvec
      "u32", // unsigned int vlen
      "i32", // int flags
    ],
    result: "i32",
  },
  recvmmsg: {
    parameters: [
      "i32", // int sockfd
      "pointer", // struct mmsghdr *msgvec
      "u32", // unsigned int vlen
      "i32", // int flags
      "pointer", // struct timespec *timeout
    ],
    result: "i32",
  },
  accept4: {
    parameters: [
      "i32", // int sockfd
      "buffer", // struct sockaddr *addr
      "buffer", // socklen_t *addrlen
      "i32", // int flags
    ],
    result: "i32",
  },
  recv: {
    parameters: [
      "i32", // int sockfd
      "buffer", // void *buf
      "usize", // size_t len
      "i32", // int flags
    ],
    result: "isize",
  },
  getpeername: {
    parameters: [
      "i32", // int sockfd
      "buffer", // struct sockaddr *addr
      "buffer", // socklen_t *addrlen
    ],
    result: "i32",
  },
  getsockname: {
    parameters: [
      "i32", // int sockfd
      "buffer", // struct sockaddr *addr
      "buffer", // socklen_t *addrlen
    ],
    result: "i32",
  },
  getsockopt: {
    parameters: [
      "i32", // int sockfd
      "i32", // int level
      "i32", // int optname
      "buffer", // void *optval
      "buffer", // socklen_t *optlen
    ],
    result: "i32",
  },
  setsockopt: {
    parameters: [
      "i32", // int sockfd
      "i32", // int level
      "i32", // int optname
      "buffer", // const void *optval
      "u32", // socklen_t optlen
    ],
    result: "i32",
  },
  shutdown: {
    parameters: [
      "i32", // int sockfd
      "i32", // int how
    ],
    result: "i32",
  },
});

/** struct epoll_event is packed on x86-64 and aligned elsewhere. */
const epollEventPacked = Deno.build.arch === "x86_64";

export const epollEvent = struct("epoll_event", epollEventPacked ? 12 : 16, {
  "events": [0, "u32"],
  "data": [epollEventPacked ? 4 : 8, "u64"],
});

export const openHow = struct("open_how", 24, {
  "flags": [0, "u64"],
  "mode": [8, "u64"],
  "resolve": [16, "u64"],
});

export const statxBuffer = struct("statx", 256, {
  "stx_nlink": [16, "u32"],
  "stx_uid": [20, "u32"],
  "stx_mode": [28, "u16"],
  "stx_size": [40, "u64"],
});

export const dirent = struct("dirent", 280, {
  "d_name": [19, { bytes: 256 }],
});

export const passwd = struct("passwd", 48, {
  "pw_uid": [16, "u32"],
  "pw_gid": [20, "u32"],
});

export const group = struct("group", 32, {
  "gr_gid": [16, "u32"],
});

export const rlimit = struct("rlimit", 16, {
  "rlim_cur": [0, "u64"],
  "rlim_max": [8, "u64"],
});

/** Ports and addresses of both families are in network byte order. */
export const sockaddrIn = struct("sockaddr_in", 16, {
  "sin_family": [0, "u16"],
  "sin_port": [2, { bytes: 2 }],
  "sin_addr": [4, { bytes: 4 }],
});

export const sockaddrIn6 = struct("sockaddr_in6", 28, {
  "sin6_family": [0, "u16"],
  "sin6_port": [2, { bytes: 2 }],
  "sin6_addr": [8, { bytes: 16 }],
  "sin6_scope_id": [24, "u32"],
});

export const ifreq = struct("ifreq", 40, {
  "ifr_name": [0, { bytes: 16 }],
  "ifr_mtu": [16, "i32"],
  "ifr_flags": [16, "u16"],
  "ifr_data": [16, "pointer"],
});

export const ifNameindex = struct("if_nameindex", 16, {
  "if_index": [0, "u32"],
  "if_name": [8, "pointer"],
});

export const iovec = struct("iovec", 16, {
  "iov_base": [0, "pointer"],
  "iov_len": [8, "u64"],
});

export const mmsghdr = struct("mmsghdr", 64, {
  "msg_hdr.msg_name": [0, "pointer"],
  "msg_hdr.msg_namelen": [8, "u32"],
  "msg_hdr.msg_iov": [16, "pointer"],
  "msg_hdr.msg_iovlen": [24, "u64"],
  "msg_hdr.msg_control": [32, "pointer"],
  "msg_hdr.msg_controllen": [40, "u64"],
  "msg_hdr.msg_flags": [48, "i32"],
  "msg_len": [56, "u32"],
});

export const sockFilter = struct("sock_filter", 8, {
  "code": [0, "u16"],
  "k": [4, "u32"],
});

export const sockFprog = struct("sock_fprog", 16, {
  "len": [0, "u16"],
  "filter": [8, "pointer"],
});

export const cmsghdr = struct("cmsghdr", 16, {
  "cmsg_len": [0, "u64"],
  "cmsg_level": [8, "i32"],
  "cmsg_type": [12, "i32"],
});

/** Constants of the Linux ABI that the program uses, checked against the headers like the structures. */
export const C = {
  PROT_READ: 1,
  PROT_WRITE: 2,
  MAP_SHARED: 1,
  MAP_PRIVATE: 2,
  MAP_ANONYMOUS: 0x20,
  EPOLL_CLOEXEC: 0o2000000,
  EPOLL_CTL_ADD: 1,
  EPOLL_CTL_DEL: 2,
  EPOLL_CTL_MOD: 3,
  EPOLLIN: 1,
  EPOLLOUT: 4,
  EPOLLONESHOT: 1 << 30,
  EFD_CLOEXEC: 0o2000000,
  EFD_NONBLOCK: 0o4000,
  F_GETFL: 3,
  F_SETFL: 4,
  O_RDONLY: 0,
  O_WRONLY: 1,
  O_RDWR: 2,
  O_CREAT: 0o100,
  O_EXCL: 0o200,
  O_NONBLOCK: 0o4000,
  O_DIRECTORY: Deno.build.arch === "x86_64" ? 0o200000 : 0o40000,
  O_NOFOLLOW: Deno.build.arch === "x86_64" ? 0o400000 : 0o100000,
  O_TMPFILE: Deno.build.arch === "x86_64" ? 0o20200000 : 0o20040000,
  O_CLOEXEC: 0o2000000,
  O_PATH: 0o10000000,
  AT_FDCWD: -100,
  AT_EMPTY_PATH: 0x1000,
  AT_SYMLINK_FOLLOW: 0x400,
  PR_SET_DUMPABLE: 4,
  PR_SET_NO_NEW_PRIVS: 38,
  LOCK_SH: 1,
  LOCK_EX: 2,
  LOCK_NB: 4,
  STATX_TYPE: 1,
  STATX_MODE: 2,
  STATX_NLINK: 4,
  STATX_UID: 8,
  STATX_SIZE: 0x200,
  S_IFMT: 0o170000,
  S_IFREG: 0o100000,
  SYS_openat2: 437,
  RLIMIT_NOFILE: 7,
  RLIMIT_MEMLOCK: 8,
  AF_INET: 2,
  AF_INET6: 10,
  SOL_SOCKET: 1,
  SOCK_DGRAM: 2,
  SOCK_NONBLOCK: 0o4000,
  SOCK_CLOEXEC: 0o2000000,
  SO_SNDBUF: 7,
  SO_RCVBUF: 8,
  SO_KEEPALIVE: 9,
  SO_REUSEPORT: 15,
  SO_ACCEPTCONN: 30,
  SO_SNDBUFFORCE: 32,
  SO_RCVBUFFORCE: 33,
  SO_ATTACH_REUSEPORT_CBPF: 51,
  BPF_RET: 6,
  BPF_K: 0,
  MSG_CTRUNC: 8,
  MSG_TRUNC: 0x20,
  SIOCGIFFLAGS: 0x8913,
  SIOCGIFMTU: 0x8921,
  IFF_LOOPBACK: 8,
  IFF_RUNNING: 0x40,
  IPPROTO_IP: 0,
  IP_MTU_DISCOVER: 10,
  IP_PMTUDISC_PROBE: 3,
  IPPROTO_IPV6: 41,
  IPV6_MTU_DISCOVER: 23,
  IPV6_PMTUDISC_PROBE: 3,
  IPV6_V6ONLY: 26,
  SOL_UDP: 17,
  UDP_NO_CHECK6_RX: 102,
  UDP_SEGMENT: 103,
  UDP_GRO: 104,
  IPPROTO_TCP: 6,
  TCP_NODELAY: 1,
  SHUT_WR: 1,
  SHUT_RDWR: 2,
  RESOLVE_NO_MAGICLINKS: 0x02,
  RESOLVE_NO_SYMLINKS: 0x04,
  RESOLVE_BENEATH: 0x08,
} as const;

/** errno of the last call from this thread. Ask at once: the next call may change it. */
export function errno(): number {
  return new Deno.UnsafePointerView(libc().__errno_location()!).getInt32();
}

const errnoNames = new Map(Object.entries(constants.errno).map(([name, value]) => [value, name]));

/** C's name of an error number, for example ENOMEM. */
export function errnoName(number: number): string {
  return errnoNames.get(number) ?? `errno ${number}`;
}

/** A system call that failed. */
export class SystemError extends Error {
  override readonly name = "SystemError";
  /** C's name of the error number, for example ENOSPC. */
  readonly code: string;

  constructor(readonly call: string, readonly errno: number) {
    super(`${call} failed with ${errnoName(errno)}`);
    this.code = errnoName(errno);
  }
}

/**
 * Passes a call's result on.
 *
 * @throws SystemError with errno when the result is negative
 */
export function check(call: string, result: number | bigint): number {
  if (result < 0) throw new SystemError(call, errno());
  return Number(result);
}
