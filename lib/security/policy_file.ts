import { errorText, UsageError } from "../errors.ts";
import type { Policy } from "./policy.ts";

/**
 * Reads and checks a policy file (YAML 1.2).
 *
 * @throws UsageError `policy_unreadable`, or `bad_policy` that names file, line, what is wrong and
 * what is allowed
 */
export async function loadPolicy(path: string): Promise<Policy> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    throw new UsageError(
      "policy_unreadable",
      `the policy ${path} cannot be read: ${errorText(error)}`,
      "Name another file with --policy, or let this user read it",
      { cause: error },
    );
  }
  // The parser takes as long to load as much else together, and most servers have no policy.
  const { parsePolicy } = await import("./policy_parser.ts");
  return parsePolicy(text, path);
}
