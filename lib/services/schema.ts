import * as v from "valibot";
import { issueText } from "../control/schema_issue.ts";
import { ProtocolError } from "../errors.ts";

/** A size or an address: a decimal string, as JSON numbers end at 2^53. Addresses of user space lie below that. */
export const decimal = v.pipe(
  v.string(),
  v.regex(/^(0|[1-9]\d{0,15})$/),
  v.check((text) => Number.isSafeInteger(Number(text)), "above 2^53"),
);

/** 32 bits. */
export const u32 = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(2 ** 32 - 1));

/**
 * The body of a REQUEST or REPLY, checked.
 *
 * @throws ProtocolError naming the first field that violates the schema
 */
export function parse<const S extends v.GenericSchema>(schema: S, body: unknown): v.InferOutput<S> {
  const result = v.safeParse(schema, body);
  if (result.success) return result.output;
  throw new ProtocolError("schema", issueText(result.issues));
}
