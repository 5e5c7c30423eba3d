import type { Command } from "commander";
import { addInitCommand } from "./certs_init.ts";
import { addIssueCommand } from "./certs_issue.ts";
import { addPinCommand } from "./certs_pin.ts";
import { addRenewCommand } from "./certs_renew.ts";
import { addRevokeCommand } from "./certs_revoke.ts";
import { addShowCommand } from "./certs_show.ts";
import { examples } from "./program.ts";

/** Adds `verbseal certs` and its commands. */
export function addCertsCommand(program: Command): void {
  const certs = program.command("certs")
    .summary("create and look after certificates")
    .description("Create certificates, and look after them, with an authority of your own.")
    .addHelpText(
      "after",
      examples(
        ["verbseal certs init", "an authority, and a server and a client certificate of it"],
        ["verbseal certs issue backup --for client", "a further certificate"],
        ["verbseal certs show certs/*.pem", "what they say, and until when they are valid"],
        ["verbseal certs renew certs/server.pem", "the same for another while"],
        ["verbseal certs revoke certs/backup.pem", "an end before its time"],
      ),
    );
  addInitCommand(certs);
  addIssueCommand(certs);
  addShowCommand(certs);
  addPinCommand(certs);
  addRenewCommand(certs);
  addRevokeCommand(certs);
}
