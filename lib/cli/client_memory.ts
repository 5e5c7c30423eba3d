import { createHash } from "node:crypto";
import type { Command } from "commander";
import { IntegrityError } from "../errors.ts";
import type { Endpoint } from "../tls/connection.ts";
import { readInput, showBytes } from "./bytes.ts";
import { sessionCommand, sessionFacts, withSession } from "./session_command.ts";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";
import { byteSize } from "./values.ts";

const offsetOption = [
  "--offset <bytes>",
  "first byte in the region",
  byteSize(0, 2 ** 40),
  0,
] as const;

/** Adds `write` and `read`. */
export function addMemoryCommands(client: Command): void {
  sessionCommand(client, "write")
    .argument("[data]", "what to write; without it, what comes on standard input")
    .summary("WRITE to the memory that the server lends, and READ it back")
    .description(
      "WRITE to the region that the server lends to this session, READ it back and compare. " +
        "Each of the two has a grant of its own, for exactly these bytes and this direction.",
    )
    .option(...offsetOption)
    .addHelpText(
      "after",
      examples(
        ["verbseal client write storage1 'hello' --offset 4096 --ca ca.pem", "5 bytes at 4096"],
      ),
    )
    .action(write);
  sessionCommand(client, "read")
    .summary("READ from the memory that the server lends")
    .description(
      "READ from the region that the server lends to this session. It is the session's own and " +
        "zeroed when the session begins.",
    )
    .option(...offsetOption)
    .option("--length <bytes>", "bytes to read", byteSize(1, 2 ** 30), 4096)
    .addHelpText(
      "after",
      examples(
        ["verbseal client read storage1 --length 64 --ca ca.pem | xxd", "the first 64 bytes"],
      ),
    )
    .action(read);
}

async function write(
  server: Endpoint,
  data: string | undefined,
  { offset }: { offset: number },
  command: Command,
): Promise<void> {
  const bytes = data === undefined ? await readInput() : new TextEncoder().encode(data);
  await withSession(server, command, async (client) => {
    const { session, memory } = client;
    // With another queue pair the region is a new one, zeroed.
    const back = await session.repeating(async () => {
      await memory.write(session, offset, bytes);
      return await memory.read(session, offset, bytes.length);
    });
    const sha256 = createHash("sha256").update(back).digest("hex");
    if (sha256 !== createHash("sha256").update(bytes).digest("hex")) {
      throw new IntegrityError("memory", "what was read back differs from what was written");
    }
    outputOf(command).result(
      { offset, bytes: bytes.length, sha256, session: sessionFacts(client) },
      `${bytes.length} bytes written at ${offset} and read back equal, SHA-256 ${sha256}`,
    );
  });
}

async function read(
  server: Endpoint,
  { offset, length }: { offset: number; length: number },
  command: Command,
): Promise<void> {
  await withSession(server, command, async (client) => {
    const { session, memory } = client;
    const bytes = await session.repeating(() => memory.read(session, offset, length));
    const facts = { offset, session: sessionFacts(client) };
    showBytes(outputOf(command), "data", bytes, facts, { line: false });
  });
}
