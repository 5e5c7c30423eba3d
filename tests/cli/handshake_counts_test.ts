import { assert, assertEquals } from "@std/assert";
import { RunningServer, Workspace } from "../program.ts";
import { verbsTest } from "../rdma/resources.ts";

const hostname = "127.0.0.1";

/** A handshake of openssl s_client; with TLS 1.2 the ticket is part of it. */
async function meet(port: number, ...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command("openssl", {
    args: ["s_client", "-connect", `${hostname}:${port}`, "-tls1_2", ...args],
    stdin: "null",
  }).output();
  assert(success, new TextDecoder().decode(stderr));
}

/** A client that speaks no TLS, until the server hangs up. */
async function fail(port: number): Promise<void> {
  using connection = await Deno.connect({ hostname, port });
  await connection.write(new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n"));
  while (await connection.read(new Uint8Array(1024)).catch(() => null) !== null);
}

verbsTest("both listeners of a server tell at its end how its handshakes went", async () => {
  await using workspace = await Workspace.create();
  const listening = ["--messages-listen", `${hostname}:0`, "--tls-min", "1.2"];
  await using server = await RunningServer.start(workspace, listening);
  const { messagesAddress } = await server.logged(({ message }) => message === "listening");
  const messagesPort = Number(String(messagesAddress).split(":").at(-1));
  const ticket = workspace.file("ticket");
  for (
    const [port, resumptions, args] of [
      [server.port, 1, ["-alpn", "verbseal/1"]],
      [messagesPort, 2, []],
    ] as const
  ) {
    await meet(port, ...args, "-sess_out", ticket);
    for (let count = 0; count < resumptions; count++) await meet(port, ...args, "-sess_in", ticket);
    await fail(port);
  }
  await server.stop();
  const stopped = server.log.filter(({ message }) => message === "stopped");
  const counts = stopped.map(({ category, handshakes }) => [category, handshakes]);
  assertEquals(Object.fromEntries(counts), {
    "verbseal.server": { full: 1, resumed: 1, failed: 1 },
    "verbseal.messages": { full: 1, resumed: 2, failed: 1 },
  });
});
