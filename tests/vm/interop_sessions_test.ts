/** Sessions between the two providers: rdma_rxe here, the embedded one on the other host, and each as server and as client. */
import { assert, assertEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { join } from "node:path";
import { gidOfAddress, PATH_MTUS, type PathMtu } from "../../lib/rdma/address.ts";
import type { Endpoint } from "../../lib/tls/connection.ts";
import { type CertificateSet, createCertificates } from "../../lib/tls/certificates.ts";
import { FarHost } from "../interop/far_host.ts";
import { type ClientOptions, meetServer, ServerEnd } from "../interop/session_end.ts";
import { randomFile, sha256 } from "../program.ts";
import { rxe } from "../provider.ts";
import { verbsTest } from "../rdma/resources.ts";
import { NetworkNamespace } from "./namespace.ts";

type IpVersion = "IPv4" | "IPv6";
/** Which of the two is the server. */
type Server = "rdma_rxe" | "the embedded provider";

const nearAddresses = { IPv4: "10.9.0.1", IPv6: "fd09::1" } as const;
const farAddresses = {
  IPv4: NetworkNamespace.addresses.ipv4,
  IPv6: NetworkNamespace.addresses.ipv6,
} as const;

/** Bytes of IP, UDP and RoCE headers that an interface's MTU has room for beside the payload. */
const HEADERS = 128;
/** Least MTU of an interface with IPv6. */
const IPV6_MINIMUM_MTU = 1280;

/** Bytes of the file that goes to and fro; no multiples of any path MTU or buffer. */
const FILE_BYTES = 300_007;
/** So many that some are lost: 1 % of more than two thousand packets. */
const LOSSY_FILE_BYTES = 1_000_003;

/** One session; with loss, RDMA waits for timeouts. */
const MILLISECONDS = 60_000;

/** Both hosts, and what all sessions need. */
class Scene implements AsyncDisposable {
  static current: Scene;

  private constructor(
    readonly namespace: NetworkNamespace,
    readonly farHost: FarHost,
    readonly certificates: CertificateSet,
    readonly directory: string,
    private readonly stack: AsyncDisposableStack,
  ) {}

  static async create(): Promise<Scene> {
    await using stack = new AsyncDisposableStack();
    const namespace = stack.use(await NetworkNamespace.create());
    const farHost = stack.use(new FarHost(namespace));
    const hosts = [...Object.values(nearAddresses), ...Object.values(farAddresses)];
    const certificates = await createCertificates({ hosts, days: 1 });
    const directory = await Deno.makeTempDir();
    stack.defer(() => Deno.remove(directory, { recursive: true }));
    await Deno.mkdir(join(directory, "root"));
    return new Scene(namespace, farHost, certificates, directory, stack.move());
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stack.disposeAsync();
  }
}

Deno.test.beforeAll(async () => {
  Scene.current = await Scene.create();
});

Deno.test.afterAll(async () => {
  await Scene.current[Symbol.asyncDispose]();
});

/** One session that uses all services, in which everything must come as it went, at this path MTU. */
type Meet = (pathMtu: PathMtu, fileBytes: number) => Promise<void>;

/** A test with a server on one of the two, which the other meets. */
function meetingTest(
  what: string,
  server: Server,
  version: IpVersion,
  test: (meet: Meet) => Promise<void>,
): void {
  verbsTest(`interop: sessions with a server on ${server}, ${version}, ${what}`, async () => {
    const isNear = server === "rdma_rxe";
    await Scene.current.namespace.setMtu();
    await using stack = new AsyncDisposableStack();
    const endpoint = await serve(isNear, version, stack);
    await test((pathMtu, fileBytes) =>
      deadline(meet(isNear, version, endpoint, pathMtu, fileBytes), MILLISECONDS)
    );
  });
}

async function serve(
  isNear: boolean,
  version: IpVersion,
  stack: AsyncDisposableStack,
): Promise<Endpoint> {
  const { farHost, certificates, directory } = Scene.current;
  const options = { identity: certificates.server, root: join(directory, "root") };
  if (isNear) {
    const near = { ...options, address: nearAddresses[version], device: rxe.device };
    return stack.use(new ServerEnd(near)).endpoint;
  }
  stack.defer(() => farHost.stop());
  const address = farAddresses[version];
  return await farHost.serve({ ...options, address, device: `roce:${address}` });
}

async function meet(
  serverIsNear: boolean,
  version: IpVersion,
  server: Endpoint,
  pathMtu: PathMtu,
  fileBytes: number,
): Promise<void> {
  const scene = Scene.current;
  const { namespace, farHost, certificates } = scene;
  await namespace.setMtu(interfaceMtu(pathMtu, version));
  const [file, copy] = [scene.path("file"), scene.path("copy")];
  await randomFile(file, fileBytes);
  const options: Omit<ClientOptions, "device"> = {
    server,
    authority: certificates.ca.certificate,
    file,
    name: "file",
    copy,
  };
  const outcome = serverIsNear
    ? await farHost.meet({ ...options, device: `roce:${farAddresses[version]}` })
    : await meetServer({ ...options, device: rxe.device });
  const [nearGid, farGid] = [
    gidOfAddress(nearAddresses[version]),
    gidOfAddress(farAddresses[version]),
  ];
  const gids = serverIsNear
    ? { localGid: farGid, remoteGid: nearGid }
    : { localGid: nearGid, remoteGid: farGid };
  const sum = await sha256(file);
  assertEquals(outcome, { pathMtu, ...gids, put: sum, got: sum });
  assertEquals(await sha256(scene.path("root/file")), sum);
  assertEquals(await sha256(copy), sum);
}

/** Leaves room for exactly that path MTU. */
function interfaceMtu(pathMtu: PathMtu, version: IpVersion): number {
  return Math.max(pathMtu + HEADERS, version === "IPv6" ? IPV6_MINIMUM_MTU : 0);
}

/**
 * IPv6 itself needs an MTU that has room for the third. From the largest on: the embedded provider
 * looks at its interface when a device is opened, and the server's worker keeps its device.
 */
const pathMtus: Readonly<Record<IpVersion, readonly PathMtu[]>> = {
  IPv4: PATH_MTUS.toReversed(),
  IPv6: PATH_MTUS.slice(2).toReversed(),
};

for (const server of ["rdma_rxe", "the embedded provider"] as const) {
  for (const version of ["IPv4", "IPv6"] as const) {
    const mtus = pathMtus[version];
    meetingTest(
      `use all services at path MTUs ${mtus.join(", ")}`,
      server,
      version,
      async (meet) => {
        for (const pathMtu of mtus) await meet(pathMtu, FILE_BYTES);
      },
    );
    meetingTest("bear 1 % loss and reordering", server, version, async (meet) => {
      // One packet in a hundred is held back for a millisecond, and overtaken.
      const rules = ["loss", "1%", "delay", "1ms", "reorder", "99%"];
      await using disturbance = await Scene.current.namespace.disturb(...rules);
      await meet(1024, LOSSY_FILE_BYTES);
      assert(await disturbance.lost() > 0, "nothing was lost");
    });
  }
}
