/** The audit log of a server that was started in a workspace. */
import type { Workspace } from "../program.ts";

/** One line of it. */
export type Line = Record<string, unknown>;

/** Options of a server that keeps one. */
export const auditing = ["--audit", "audit.jsonl"];

export async function linesOf(workspace: Workspace): Promise<Line[]> {
  const text = await Deno.readTextFile(workspace.file("audit.jsonl"));
  return text.split("\n").slice(0, -1).map((line) => JSON.parse(line));
}

/** Its lines about this event, each with these fields only. */
export async function eventsOf(
  workspace: Workspace,
  event: string,
  ...fields: string[]
): Promise<unknown[][]> {
  const lines = (await linesOf(workspace)).filter((line) => line["event"] === event);
  return lines.map((line) => fields.map((name) => line[name]));
}
