import * as v from "valibot";
import { parseByteSize } from "../byte_size.ts";
import type { Service, Transport } from "../control/messages.ts";
import { errorText } from "../errors.ts";
import type { PeerIdentity } from "../tls/peer_identity.ts";
import { namePattern } from "./name_pattern.ts";
import {
  dnsPattern,
  emailPattern,
  fingerprintPattern,
  type Matcher,
  textPattern,
  uriPattern,
} from "./pattern.ts";
import type { Allowance, DataAccess, Rule } from "./policy.ts";

const services = ["messages", "memory", "files"] as const satisfies readonly Service[];
const transports = ["rdma", "ktls"] as const satisfies readonly Transport[];
const access = ["read", "write"] as const satisfies readonly DataAccess[];

/** An object whose complaints name the keys that are allowed. */
function object<const E extends v.ObjectEntries>(what: string, entries: E) {
  return v.strictObject(entries, ({ expected, input, path }) => {
    const key = String(path?.at(-1)?.key);
    if (expected === "Object") return `${what} must have keys, and is ${shown(input)}`;
    return expected === "never"
      ? `${what} knows no key ${shown(key)}: allowed are ${Object.keys(entries).join(", ")}`
      : `${what} lacks the key ${key}`;
  });
}

/** One, or a list. */
function oneOrMany<const S extends v.GenericSchema>(item: S) {
  const asList = v.transform((value: unknown): unknown[] => Array.isArray(value) ? value : [value]);
  return v.pipe(v.unknown(), asList, v.array(item));
}

function choice<const T extends string>(names: readonly T[]) {
  return v.picklist(
    names,
    ({ input }) => `${shown(input)} is not known: allowed are ${names.join(", ")}`,
  );
}

const text = v.pipe(
  v.string(({ input }) => `${shown(input)} is no text: put it in quotes`),
  v.nonEmpty("a text must not be empty"),
);

/** Holds if any of the patterns matches any of the certificate's values. */
function condition<T>(
  compile: (pattern: string) => Matcher<T>,
  valuesOf: (identity: PeerIdentity) => readonly T[],
) {
  const pattern = v.pipe(
    text,
    v.rawTransform<string, Matcher<T>>(({ dataset, addIssue, NEVER }) => {
      try {
        return compile(dataset.value);
      } catch (error) {
        addIssue({ message: errorText(error) });
        return NEVER;
      }
    }),
  );
  return v.pipe(
    oneOrMany(pattern),
    v.nonEmpty("an empty list matches nobody"),
    v.transform((patterns): Matcher<PeerIdentity> => (identity) =>
      valuesOf(identity).some((value) => patterns.some((matches) => matches(value)))
    ),
  );
}

/**
 * A certificate with a SPIFFE ID has no other URI; one that has is to be rejected as an SVID
 * (X509-SVID, sections 2 and 5.2), so that the ID in it identifies nobody.
 */
function identifying(uris: readonly string[]): readonly string[] {
  return uris.length === 1 ? uris : uris.filter((uri) => !/^spiffe:/i.test(uri));
}

const conditions = {
  subject: v.optional(condition(namePattern, ({ subjectName }) => [subjectName])),
  "common-name": v.optional(condition(textPattern, ({ commonNames }) => commonNames)),
  organization: v.optional(condition(textPattern, ({ organizations }) => organizations)),
  "organizational-unit": v.optional(
    condition(textPattern, ({ organizationalUnits }) => organizationalUnits),
  ),
  dns: v.optional(condition(dnsPattern, ({ alternativeNames }) => alternativeNames.dns)),
  uri: v.optional(
    condition(uriPattern, ({ alternativeNames }) => identifying(alternativeNames.uri)),
  ),
  email: v.optional(condition(emailPattern, ({ alternativeNames }) => alternativeNames.email)),
  fingerprint: v.optional(condition(fingerprintPattern, ({ fingerprint }) => [fingerprint])),
};

const match = v.pipe(
  object("match", {
    ...conditions,
    anonymous: v.optional(
      v.literal(true, ({ input }) => `anonymous is ${shown(input)}: allowed is true`),
    ),
  }),
  v.check(
    (given) => Object.keys(given).length > 0,
    'match has no condition: subject: "*" is every certificate, anonymous: true is none',
  ),
  v.check(
    ({ anonymous, ...others }) => !anonymous || Object.keys(others).length === 0,
    "anonymous stands alone: who has no certificate has nothing else to match",
  ),
  v.transform(({ anonymous, ...given }): Rule["matches"] => {
    const all = Object.values(given).filter((holds) => holds !== undefined);
    return (identity) =>
      identity ? !anonymous && all.every((holds) => holds(identity)) : !!anonymous;
  }),
);

const root = v.pipe(
  text,
  v.check(
    (path) => !path.startsWith("/") && !path.split("/").includes("..") && !path.includes("\0"),
    ({ input }) => `the root ${shown(input)} leaves the server's: a path below --root is allowed`,
  ),
);

const sessionsText = "sessions must be a whole number from 1";
const sessions = v.pipe(
  v.number(sessionsText),
  v.integer(sessionsText),
  v.minValue(1, sessionsText),
);

const bytesText = "registered-memory must be a number of bytes, such as 65536 or 8MiB";
const bytes = v.pipe(
  v.union([v.string(), v.number()], bytesText),
  v.transform((value) => parseByteSize(String(value))),
  v.number(bytesText),
);

const allow = v.pipe(
  object("allow", {
    services: oneOrMany(choice(services)),
    access: v.optional(oneOrMany(choice(access)), "read"),
    root: v.optional(root),
    sessions: v.optional(sessions),
    "without-rdma": v.optional(choice(transports), "rdma"),
    "registered-memory": v.optional(bytes),
  }),
  v.transform(({ services, access, root, sessions, ...others }): Allowance => ({
    services,
    sessions,
    withoutRdma: others["without-rdma"],
    permissions: {
      access,
      ...(root === undefined ? {} : { root }),
      registeredBytes: others["registered-memory"] ?? Infinity,
    },
  })),
);

/** A policy file, once it is parsed as YAML. Each issue's message is what is wrong and what is allowed. */
export const policySchema = object("the policy", {
  rules: v.pipe(
    v.array(
      object("a rule", { name: v.optional(text), match, allow }),
      "rules must be a list of rules",
    ),
    v.nonEmpty("rules has no rule, and would refuse every client"),
  ),
});

function shown(value: unknown): string {
  return JSON.stringify(value) ?? "nothing";
}
