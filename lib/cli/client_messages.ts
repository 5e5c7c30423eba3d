import type { Command } from "commander";
import { randomBytes } from "node:crypto";
import { IntegrityError } from "../errors.ts";
import type { Client } from "../services/client.ts";
import type { Question } from "../services/messages.ts";
import { type Endpoint, endpointText } from "../tls/connection.ts";
import { delay } from "@std/async/delay";
import { sessionCommand, sessionFacts, withSession } from "./session_command.ts";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";
import { byteSize, duration, wholeNumber } from "./values.ts";
import { readInput, showBytes } from "./bytes.ts";

/** Adds `ping`, `echo`, `reverse` and `time`. */
export function addMessageCommands(client: Command): void {
  sessionCommand(client, "ping")
    .summary("measure the round trip of a message")
    .description("Send messages over the queue pair, and measure how long their echo takes.")
    .option("-c, --count <count>", "messages to send", wholeNumber(1, 1e9), 5)
    .option("-i, --interval <duration>", "pause between them", duration(0, 3600), 1)
    .option("-s, --size <bytes>", "bytes of each", byteSize(0, 2 ** 20), 64)
    .addHelpText(
      "after",
      examples(
        ["verbseal client ping storage1 --ca ca.pem", "five messages, one a second"],
        ["verbseal client ping storage1 --ca ca.pem -c 1000 -i 0 --json", "many, for a script"],
      ),
    )
    .action(ping);
  question(client, "echo", "ECHO", "have the server send a message back")
    .addHelpText(
      "after",
      examples(
        ["verbseal client echo storage1 'hello' --ca ca.pem", "prints hello"],
        [
          "verbseal client echo storage1 --ca ca.pem < message.bin > back.bin",
          "any bytes, to 1 MiB",
        ],
      ),
    );
  question(client, "reverse", "REVERSE", "have the server send a message back to front")
    .addHelpText(
      "after",
      examples(
        ["verbseal client reverse storage1 'hello' --ca ca.pem", "prints olleh"],
      ),
    );
  sessionCommand(client, "time")
    .summary("ask for the server's time")
    .description("Ask for the server's time, in UTC.")
    .addHelpText("after", examples(["verbseal client time storage1 --ca ca.pem", "its clock"]))
    .action((server: Endpoint, _options: unknown, command: Command) =>
      withSession(
        server,
        command,
        (client) => ask(client, command, "TIME", new Uint8Array(0), true),
      )
    );
}

function question(client: Command, name: string, kind: Question, summary: string): Command {
  return sessionCommand(client, name)
    .argument("[message]", "the message; without it, what comes on standard input")
    .summary(summary)
    .description(`${summary[0]!.toUpperCase()}${summary.slice(1)}, over the queue pair.`)
    .action(async (server: Endpoint, message: string | undefined, _: unknown, command: Command) => {
      const body = message === undefined ? await readInput() : new TextEncoder().encode(message);
      const line = message !== undefined;
      await withSession(server, command, (client) => ask(client, command, kind, body, line));
    });
}

async function ask(
  client: Client,
  command: Command,
  kind: Question,
  body: Uint8Array,
  line: boolean,
): Promise<void> {
  const started = performance.now();
  const answer = await client.session.repeating(() => client.messages.ask(kind, body));
  const facts = { milliseconds: performance.now() - started, session: sessionFacts(client) };
  showBytes(outputOf(command), "answer", answer, facts, { line });
}

interface PingOptions {
  readonly count: number;
  readonly interval: number;
  readonly size: number;
}

async function ping(server: Endpoint, options: PingOptions, command: Command): Promise<void> {
  await withSession(server, command, (client) => pingOften(client, server, options, command));
}

async function pingOften(
  client: Client,
  server: Endpoint,
  { count, interval, size }: PingOptions,
  command: Command,
): Promise<void> {
  const output = outputOf(command);
  const { agreed } = client.session;
  const far = agreed.transport === "rdma"
    ? `qpn ${agreed.remote.qpn}, gid ${agreed.remote.gid}`
    : agreed.transport;
  const peer = `${endpointText(server)} (${far})`;
  const body = randomBytes(size);
  const times: number[] = [];
  for (let sequence = 1; sequence <= count; sequence++) {
    if (sequence > 1 && interval > 0) await delay(interval * 1000);
    const started = performance.now();
    const echo = await client.session.repeating(() => client.messages.ask("ECHO", body));
    const milliseconds = performance.now() - started;
    if (!echo.every((byte, index) => byte === body[index]) || echo.length !== body.length) {
      throw new IntegrityError("echo", "the echo differs from what was sent");
    }
    times.push(milliseconds);
    output.result(
      { sequence, bytes: body.length, milliseconds },
      `${body.length} bytes from ${peer}: seq=${sequence} time=${milliseconds.toFixed(3)} ms`,
    );
  }
  times.sort((a, b) => a - b);
  const [least, most] = [times[0]!, times.at(-1)!];
  const median = times[Math.floor(times.length / 2)]!;
  output.result(
    { count, milliseconds: { least, median, most }, session: sessionFacts(client) },
    `${count} round trips: least ${least.toFixed(3)}, median ${median.toFixed(3)}, most ${
      most.toFixed(3)
    } ms`,
  );
}
