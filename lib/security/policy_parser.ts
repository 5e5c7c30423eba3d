import * as v from "valibot";
import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseDocument,
} from "yaml";
import { errorText, UsageError } from "../errors.ts";
import type { Policy } from "./policy.ts";
import { policySchema } from "./policy_schema.ts";

/**
 * Checks a policy (YAML 1.2).
 *
 * @param path of the file, for errors
 * @throws UsageError `bad_policy`
 */
export function parsePolicy(text: string, path: string): Policy {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const [problem] = [...document.errors, ...document.warnings];
  if (problem) throw badPolicy(path, lines.linePos(problem.pos[0]).line, problem.message);
  const places = new Places(document, lines);
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
    private readonly document: Document,
    private readonly lines: LineCounter,
  ) {}

  /** The line of the key or item at the end of the path, or of the last one that is there. */
  lineOf(path: readonly unknown[]): number {
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
