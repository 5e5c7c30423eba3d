import type { Command } from "commander";
import { addFileCommands } from "./client_files.ts";
import { addMemoryCommands } from "./client_memory.ts";
import { addMessageCommands } from "./client_messages.ts";
import { examples } from "./program.ts";

/** Adds `verbseal client` and its commands. */
export function addClientCommand(program: Command): void {
  const client = program.command("client")
    .summary("talk to a server")
    .description("Talk to a server over RDMA, after meeting it over TLS.")
    .addHelpText(
      "after",
      examples(
        ["verbseal client ping storage1 --ca ca.pem", "is it there, and how far?"],
        ["verbseal client put storage1 data.bin --ca ca.pem", "copy a file to it"],
        ["verbseal client ping storage1 --trust-new", "know it by its key from now on"],
        ["verbseal client get storage1:4433 data.bin copy.bin --ca ca.pem", "and back"],
      ),
    );
  addMessageCommands(client);
  addMemoryCommands(client);
  addFileCommands(client);
}
