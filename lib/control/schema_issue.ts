import * as v from "valibot";

/** Characters of a field's name that are told: a peer may send one as long as a frame, for logs to keep. */
const MAX_PATH = 100;

/** What is wrong with what a peer sent: the first field that violates its schema, and why. */
export function issueText([issue]: readonly [v.BaseIssue<unknown>, ...unknown[]]): string {
  const path = v.getDotPath(issue) ?? "body";
  return `${path.slice(0, MAX_PATH)}: ${issue.message.slice(0, 200)}`;
}
