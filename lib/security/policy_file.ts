import * as v from "valibot";
import type { Document, LineCounter, Node } from "yaml";
import { errorText, UsageError } from "../errors.ts";
import type { Policy } from "./policy.ts";

/**
 * Reads and checks a policy file (YAML 1.2). Its parser is loaded by the first.
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
  return await parsePolicy(text, path);
}

/**
 * @param path of the file, for errors
 * @throws UsageError `bad_policy`
 */
export async function parsePolicy(text: string, path: string): Promise<Policy> {
  const [yaml, { policySchema }] = await Promise.all([
    import("yaml"),
    import("./policy_schema.ts"),
  ]);
  const lines = new yaml.LineCounter();
  const document = yaml.parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const [problem] = [...document.errors, ...document.warnings];
  if (problem) throw badPolicy(path, lines.linePos(problem.pos[0]).line, problem.message);
  const places = new Places(yaml, document, lines);
  const result = v.safeParse(policySchema, contentOf(document, path));
  if (!result.success) {
    const [issue] = result.issues;
    throw badPolicy(path, places.lineOf(issue.path?.map(({ key }) => key) ?? []), issue.message);
  }
  return {
    rules: result.output.rules.map(({ name, match, allow }, index) => ({
      name: name ?? `line ${places.lineOf(["rules", index])}`,
      matches: match,
      allows: allow,
    })),
  };
}

function contentOf(document: Document, path: string): unknown {
  try {
    return document.toJS();
  } catch (error) {
    throw badPolicy(path, 1, errorText(error)); // aliases that grow without measure
  }
}

function badPolicy(path: string, line: number, what: string): UsageError {
  return new UsageError(
    "bad_policy",
    `${path}:${line}: ${what}`,
    "See verbseal server --help for a policy",
  );
}

/** Where in the file things stand. */
class Places {
  constructor(
    private readonly yaml: typeof import("yaml"),
    private readonly document: Document,
    private readonly lines: LineCounter,
  ) {}

  /** The line of the key or item at the end of the path, or of the last one that is there. */
  lineOf(path: readonly unknown[]): number {
    const { isAlias, isMap, isScalar, isSeq } = this.yaml;
    let node = this.document.contents as Node | null;
    let at = node?.range?.[0] ?? 0;
    for (const key of path) {
      if (isAlias(node)) node = node.resolve(this.document) ?? null;
      if (isMap<Node, Node | null>(node)) {
        const pair = node.items.find((pair) => isScalar(pair.key) && pair.key.value === key);
        if (!pair) break;
        at = pair.key.range?.[0] ?? at;
        node = pair.value;
      } else if (isSeq<Node>(node)) {
        node = node.items[Number(key)] ?? null;
        at = node?.range?.[0] ?? at;
      }
    }
    return this.lines.linePos(at).line;
  }
}
