import { assertEquals } from "@std/assert";
import {
  ETHTOOL,
  ethtoolGetFeaturesBlock,
  ethtoolGfeatures,
  ethtoolGstrings,
  ethtoolSsetInfo,
  ethtoolStats,
} from "../../ffi/ethtool.ts";
import {
  C,
  cmsghdr,
  dirent,
  epollEvent,
  group,
  ifNameindex,
  ifreq,
  iovec,
  mmsghdr,
  openHow,
  passwd,
  rlimit,
  sockaddrIn,
  sockaddrIn6,
  sockFilter,
  sockFprog,
  statxBuffer,
} from "../../ffi/libc.ts";
import { FFI_CIF_SIZE, FFI_DEFAULT_ABI, FFI_TYPES } from "../../ffi/libffi.ts";
import { ENGINE } from "../../ffi/libcrypto_engine.ts";
import { EVP } from "../../ffi/libcrypto_evp.ts";
import { OCSP } from "../../ffi/libcrypto_ocsp.ts";
import { SHA256_CTX_BYTES } from "../../ffi/libcrypto_sha256.ts";
import { OSSL_STORE } from "../../ffi/libcrypto_store.ts";
import { SSL, SSL_R, X509_V } from "../../ffi/libssl.ts";
import { CKR } from "../../ffi/pkcs11.ts";
import { V, verbsStructures, WC_STATUS_NAMES } from "../../ffi/libibverbs.ts";
import { CM, rdmaCmStructures } from "../../ffi/librdmacm.ts";
import type { FieldType, StructLayout } from "../../ffi/layout.ts";

const headers = `
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stddef.h>
#include <stdio.h>
#include <linux/ethtool.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <ffi.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <openssl/ocsp.h>
#include <openssl/store.h>
#include <p11-kit-1/p11-kit/pkcs11.h>
`;

function sizeOf(type: FieldType): number {
  if (typeof type === "object") return type.bytes;
  return { u8: 1, u16: 2, u32: 4, i32: 4, u64: 8, pointer: 8 }[type];
}

// deno-lint-ignore no-explicit-any -- any layout, whatever its fields
type AnyLayout = StructLayout<any>;

const structures: readonly AnyLayout[] = [
  ...verbsStructures,
  ...rdmaCmStructures,
  cmsghdr,
  dirent,
  epollEvent,
  ethtoolGetFeaturesBlock,
  ethtoolGfeatures,
  ethtoolGstrings,
  ethtoolSsetInfo,
  ethtoolStats,
  group,
  ifNameindex,
  ifreq,
  iovec,
  mmsghdr,
  openHow,
  passwd,
  rlimit,
  sockFilter,
  sockFprog,
  sockaddrIn,
  sockaddrIn6,
  statxBuffer,
];

const constants: Readonly<Record<string, number>> = {
  ...V,
  ...CM,
  ...C,
  ...SSL,
  ...SSL_R,
  ...X509_V,
  ...ETHTOOL,
  ...OCSP,
  ...ENGINE,
  ...EVP,
  ...OSSL_STORE,
  ...CKR,
  FFI_DEFAULT_ABI,
  "ffi_type_pointer.size": FFI_TYPES.pointer.size,
  "ffi_type_pointer.alignment": FFI_TYPES.pointer.alignment,
  "ffi_type_pointer.type": FFI_TYPES.pointer.type,
  "ffi_type_sint32.size": FFI_TYPES.sint32.size,
  "ffi_type_sint32.alignment": FFI_TYPES.sint32.alignment,
  "ffi_type_sint32.type": FFI_TYPES.sint32.type,
  ...Object.fromEntries(WC_STATUS_NAMES.map((name, value) => [name, value])),
};

/** What TypeScript declares, a line each, as the C program prints what the headers declare. */
function declared(): string[] {
  return [
    ...structures.flatMap((layout) => [
      `${layout.name} ${layout.size}`,
      ...Object.entries(layout.fields as AnyLayout["fields"]).map(([name, field]) => {
        const [offset, type] = field as [number, FieldType];
        return `${layout.name}.${name} ${offset} ${sizeOf(type)}`;
      }),
    ]),
    ...Object.entries(constants).map(([name, value]) => `${name} ${value}`),
  ];
}

function program(): string {
  const lines = structures.flatMap((layout) => [
    `printf("${layout.name} %zu\\n", sizeof(struct ${layout.name}));`,
    ...Object.keys(layout.fields).map((field) =>
      `printf("${layout.name}.${field} %zu %zu\\n", offsetof(struct ${layout.name}, ${field}), ` +
      `sizeof(((struct ${layout.name} *)0)->${field}));`
    ),
  ]);
  for (const name of Object.keys(constants)) {
    lines.push(`printf("${name} %lld\\n", (long long)(${name}));`);
  }
  return `${headers}
_Static_assert(sizeof(SHA256_CTX) == ${SHA256_CTX_BYTES}, "SHA256_CTX");
_Static_assert(sizeof(ffi_cif) <= ${FFI_CIF_SIZE}, "ffi_cif");
int main(void) {\n  ${lines.join("\n  ")}\n  return 0;\n}\n`;
}

async function compileAndRun(source: string): Promise<string[]> {
  const directory = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${directory}/layout.c`, source);
    const compiler = await new Deno.Command("cc", {
      args: ["-o", `${directory}/layout`, `${directory}/layout.c`, "-lffi"],
      stderr: "piped",
    }).output();
    assertEquals(new TextDecoder().decode(compiler.stderr), "");
    const run = await new Deno.Command(`${directory}/layout`).output();
    return new TextDecoder().decode(run.stdout).trim().split("\n");
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

Deno.test("every structure, offset, size and constant is that of the C headers", async () => {
  assertEquals(await compileAndRun(program()), declared());
});
