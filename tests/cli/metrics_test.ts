import { assert, assertEquals, assertMatch } from "@std/assert";
import { message } from "../../lib/services/plain_messages.ts";
import { openClient } from "../client.ts";
import { eventually, randomFile, run, RunningServer, Workspace } from "../program.ts";
import { verbsTest } from "../rdma/resources.ts";
import { type Sample, valuesOf } from "../session/metrics.ts";

/** What curl gets of a server's metrics. */
async function metricsOf(server: RunningServer): Promise<string> {
  const curl = new Deno.Command("curl", {
    args: ["--silent", "--fail", `http://127.0.0.1:${server.metricsPort}/metrics`],
  });
  const { code, stdout } = await curl.output();
  assertEquals(code, 0);
  return new TextDecoder().decode(stdout);
}

/** The value with this label. */
function at(samples: readonly Sample[], label: string): number | undefined {
  return samples.find(({ labels }) => Object.values(labels).includes(label))?.value;
}

verbsTest(
  "curl gets what a server has done, in sessions that last and in those that are over",
  async () => {
    await using workspace = await Workspace.create("127.0.0.1");
    await using server = await RunningServer.start(workspace, ["--metrics-listen", ":0"]);
    await randomFile(workspace.file("sent"), 100_000);
    assertEquals((await workspace.client(server, "put", ["sent", "file"])).status, 0);
    assert((await workspace.client(server, "get", ["missing"])).status !== 0);
    const ended = () => server.log.filter(({ message }) => message === "session ended").length;
    await server.logged(() => ended() === 2);
    await using client = await openClient(workspace, server);
    await client.messages.ask("ECHO", new Uint8Array(1000));
    const text = await metricsOf(server);
    const values = (metric: string) => valuesOf(text, `verbseal_${metric}`);
    assertEquals(values("sessions")[0]?.value, 1);
    assertEquals(at(values("clients_accepted_total"), "rdma"), 3);
    assertEquals(at(values("clients_ended_total"), "bye"), 2);
    assertEquals(at(values("service_calls_total"), "messages"), 1);
    assertEquals(at(values("sent_bytes_total"), "messages"), 1000);
    assertEquals(at(values("service_calls_total"), "files"), 2);
    assertEquals(at(values("received_bytes_total"), "files"), 100_000);
    assertEquals(at(values("service_failures_total"), "ENOENT"), 1);
    assertEquals(at(values("integrity_failures_total"), "record_forged"), 0);
    assertEquals(at(values("port_errors_total"), "icrc_errors"), 0);
    for (const metric of ["cpu_seconds_total", "resident_memory_bytes", "open_fds"]) {
      assert((valuesOf(text, `process_${metric}`)[0]?.value ?? 0) > 0, metric);
    }
  },
);

verbsTest("a plain TLS client of the message service counts too", async () => {
  await using workspace = await Workspace.create("127.0.0.1");
  await using server = await RunningServer.start(workspace, [
    ...["--metrics-listen", ":0", "--messages-listen", "127.0.0.1:0"],
  ]);
  const { messagesPort } = server;
  const caCerts = [await Deno.readTextFile(workspace.file("certs/ca.pem"))];
  const client = await Deno.connectTls({ hostname: "127.0.0.1", port: messagesPort!, caCerts });
  await client.write(message("ECHO", new Uint8Array(10)));
  await client.read(new Uint8Array(100));
  const during = await metricsOf(server);
  client.close();
  await server.logged(({ message }) => message === "message client gone");
  const present = (text: string) => valuesOf(text, "verbseal_message_clients")[0]?.value;
  let after = "";
  await eventually("the client is gone", async () => {
    after = await metricsOf(server);
    return present(after) === 0;
  }, 5000);
  assertEquals(present(during), 1);
  for (const text of [during, after]) {
    assertEquals(at(valuesOf(text, "verbseal_clients_accepted_total"), "tls"), 1);
    assertEquals(at(valuesOf(text, "verbseal_received_bytes_total"), "messages"), 10);
  }
});

verbsTest("metrics for whoever reaches the host are served with a warning", async () => {
  await using workspace = await Workspace.create("127.0.0.1");
  await using server = await RunningServer.start(workspace, ["--metrics-listen", "0.0.0.0:0"]);
  const { level, remedy } = await server.logged((line) => line["category"] === "verbseal.metrics");
  assertEquals(level, "warning");
  assertMatch(String(remedy), /firewall/);
});

Deno.test("a port for metrics that another program has is named", async () => {
  await using workspace = await Workspace.create("127.0.0.1");
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const address = `127.0.0.1:${taken.addr.port}`;
  const { status, stderr } = await run(["server", "--port", "0", "--metrics-listen", address], {
    cwd: workspace.path,
  });
  assertEquals(status, 1);
  assertMatch(stderr, new RegExp(`Another program listens on ${address} already`));
});
