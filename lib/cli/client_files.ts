import { basename } from "node:path";
import type { Command } from "commander";
import { format } from "@std/fmt/bytes";
import { Download, Upload } from "../services/unfinished_transfers.ts";
import type { Endpoint } from "../tls/connection.ts";
import { sessionCommand, sessionFacts, withSession } from "./session_command.ts";
import { outputOf } from "./output.ts";
import { examples } from "./program.ts";
import { showProgress } from "./progress.ts";
import { reconnectOption } from "./reconnect.ts";

/** Adds `put` and `get`. */
export function addFileCommands(client: Command): void {
  sessionCommand(client, "put")
    .addOption(reconnectOption())
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
    .addOption(reconnectOption())
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
  using bar = new LateBar((bytes) => showProgress(output, local, bytes));
  using unfinished = operation === "put"
    ? new Upload(local, remote, bar.update)
    : new Download(remote, local, bar.update);
  const started = performance.now();
  const { moved: { size, sha256 }, losses, session } = await withSession(
    server,
    command,
    async (client, losses) => {
      const moved = await client.files.move(client.session, unfinished);
      return { moved, losses, session: sessionFacts(client) };
    },
  );
  bar[Symbol.dispose]();
  const seconds = (performance.now() - started) / 1000;
  output.result(
    { operation, local, remote, bytes: size, sha256, seconds, reconnects: losses, session },
    `${operation === "put" ? `${local} → ${remote}` : `${remote} → ${local}`}: ${
      format(size, { binary: true })
    } in ${seconds.toFixed(2)} s, SHA-256 ${sha256}`,
  );
}

/** A bar that appears with the first bytes: only then is the size known. */
class LateBar implements Disposable {
  #bar: ReturnType<typeof showProgress> | undefined;

  constructor(private readonly open: (size: number) => ReturnType<typeof showProgress>) {}

  readonly update = (bytes: number, size: number): void => {
    this.#bar ??= this.open(size);
    this.#bar.update(bytes);
  };

  [Symbol.dispose](): void {
    this.#bar?.[Symbol.dispose]();
    this.#bar = undefined;
  }
}
