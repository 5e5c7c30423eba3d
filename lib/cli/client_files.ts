import { basename } from "node:path";
import type { Command } from "commander";
import { format } from "@std/fmt/bytes";
import type { Client } from "../services/client.ts";
import type { Moved } from "../services/chunk_source.ts";
import type { Progress } from "../services/unfinished_transfers.ts";
import type { Endpoint } from "../tls/connection.ts";
import { sessionCommand, sessionFacts, withSession } from "./session_command.ts";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";
import { showProgress } from "./progress.ts";

/** Adds `put` and `get`. */
export function addFileCommands(client: Command): void {
  sessionCommand(client, "put")
    .argument("<local-file>", "file to copy")
    .argument("[remote]", "path below the server's root (default: the local file's name)")
    .summary("copy a file to the server")
    .description(
      "Copy a file to the server, which READs it out of this program's buffers. It appears " +
        "under its name when it is whole, its SHA-256 compared, and on disk.",
    )
    .addHelpText(
      "after",
      examples(
        ["verbseal client put storage1 data.bin --ca ca.pem", "as data.bin"],
        [
          "verbseal client put storage1 data.bin backup/monday.bin --ca ca.pem",
          "under another name",
        ],
      ),
    )
    .action((server: Endpoint, local: string, remote: string | undefined, _: unknown, command) =>
      move(server, command, local, remote ?? basename(local), "put")
    );
  sessionCommand(client, "get")
    .argument("<remote>", "path below the server's root")
    .argument("[local-file]", "where to put it (default: the remote file's name, here)")
    .summary("copy a file from the server")
    .description(
      "Copy a file from the server, which WRITEs it into this program's buffers. It appears " +
        "under its name when it is whole, its SHA-256 compared, and on disk.",
    )
    .addHelpText(
      "after",
      examples(
        ["verbseal client get storage1 data.bin --ca ca.pem", "to ./data.bin"],
        ["verbseal client get storage1 backup/monday.bin data.bin --ca ca.pem", "another name"],
      ),
    )
    .action((server: Endpoint, remote: string, local: string | undefined, _: unknown, command) =>
      move(server, command, local ?? basename(remote), remote, "get")
    );
}

async function move(
  server: Endpoint,
  command: Command,
  local: string,
  remote: string,
  operation: "put" | "get",
): Promise<void> {
  const output = outputOf(command);
  await withSession(server, command, async (client) => {
    const started = performance.now();
    const { size, sha256 } = await withBar(
      (progress) => transfer(client, operation, local, remote, progress),
      (bytes) => showProgress(output, local, bytes),
    );
    const seconds = (performance.now() - started) / 1000;
    output.result(
      { operation, local, remote, bytes: size, sha256, seconds, session: sessionFacts(client) },
      `${operation === "put" ? `${local} → ${remote}` : `${remote} → ${local}`}: ${
        format(size, { binary: true })
      } in ${seconds.toFixed(2)} s, SHA-256 ${sha256}`,
    );
  });
}

function transfer(
  { files, session }: Client,
  operation: "put" | "get",
  local: string,
  remote: string,
  progress: Progress,
): Promise<Moved> {
  return operation === "put"
    ? files.put(session, local, remote, progress)
    : files.get(session, remote, local, progress);
}

/** The bar appears with the first bytes: only then is the size known. */
async function withBar<T>(
  work: (progress: Progress) => Promise<T>,
  open: (size: number) => ReturnType<typeof showProgress>,
): Promise<T> {
  using stack = new DisposableStack();
  let bar: ReturnType<typeof showProgress> | undefined;
  return await work((bytes, size) => {
    bar ??= stack.use(open(size));
    bar.update(bytes);
  });
}
