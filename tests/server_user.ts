/** What tests of `verbseal server --user` look at. They are root's: nobody else can become another user. */
import { assert } from "@std/assert";
import { existsSync } from "node:fs";
import { findUser } from "../lib/security/user.ts";
import type { RunningServer, Workspace } from "./program.ts";

export const nobody = findUser("nobody");

/** Makes all of a workspace that user's. */
export async function giveToNobody(workspace: Workspace): Promise<void> {
  const owner = `${nobody.uid}:${nobody.gid}`;
  const args = ["--recursive", owner, workspace.path];
  const { success } = await new Deno.Command("chown", { args }).output();
  assert(success);
}

/** What the kernel says of a field, such as CapEff, of each thread of a server (proc(5)): each value once. */
export function ofThreads({ pid }: RunningServer, field: string): Set<string> {
  const line = new RegExp(`^${field}:[\\t ]*(.*?)[\\t ]*$`, "m");
  const threads = [...Deno.readDirSync(`/proc/${pid}/task`)].map(({ name }) => name);
  return new Set(threads.flatMap((thread) => {
    const [, value] = statusOf(`/proc/${pid}/task/${thread}`).match(line) ?? [];
    return value ?? [];
  }));
}

/** Empty for a thread that has just ended. */
function statusOf(thread: string): string {
  try {
    return Deno.readTextFileSync(`${thread}/status`);
  } catch (error) {
    if (existsSync(thread)) throw error;
    return "";
  }
}
