import type { Service, Transport } from "../control/messages.ts";
import { RefusedError } from "../errors.ts";
import type { PeerIdentity } from "../tls/peer_identity.ts";

/** Which way data may go: `write` to the server by put and WRITE, `read` from it by get and READ. */
export type DataAccess = "read" | "write";

/** What services enforce in a session. Plain data: it crosses threads. */
export interface Permissions {
  readonly access: readonly DataAccess[];
  /** Directory below the server's root that is the client's root; without it the server's is. */
  readonly root?: string;
  /** Bytes that services may have registered for the session at once. */
  readonly registeredBytes: number;
}

/** What a rule allows to those it matches. */
export interface Allowance {
  /** None: they are refused. */
  readonly services: readonly Service[];
  /** Sessions at once of one identity; undefined for the server's own limit. */
  readonly sessions: number | undefined;
  /** What carries data where the server has no RDMA device and the client offers both. */
  readonly withoutRdma: Transport;
  readonly permissions: Permissions;
}

/** Without a policy. */
export const unrestricted: Allowance = {
  services: ["messages", "memory", "files"],
  sessions: undefined,
  withoutRdma: "rdma",
  permissions: { access: ["read", "write"], registeredBytes: Infinity },
};

export interface Rule {
  /** As logs show it. */
  readonly name: string;
  /** Whether it is for this client; undefined is one without certificate. */
  readonly matches: (identity: PeerIdentity | undefined) => boolean;
  readonly allows: Allowance;
}

/** Who may do what: the first rule that matches decides, and where none does nothing is allowed. */
export interface Policy {
  readonly rules: readonly Rule[];
}

/** The rule that decides on a client. */
export function ruleFor(policy: Policy, identity: PeerIdentity | undefined): Rule | undefined {
  return policy.rules.find((rule) => rule.matches(identity));
}

/** @throws RefusedError `policy` */
export function requireAccess({ access }: Permissions, needed: DataAccess): void {
  if (!access.includes(needed)) throw forbidden(`lets this client not ${needed}`);
}

/** What a client is told: that the policy forbids it, and nothing of what is in it. */
export function forbidden(what = "does not allow this client"): RefusedError {
  return new RefusedError("policy", `the server's policy ${what}`, "ask who runs the server");
}

/**
 * Whose sessions are counted together: those of one subject with the same alternative names, which a
 * renewed certificate keeps; all clients without certificate are one.
 */
export function identityName(identity: PeerIdentity | undefined): string {
  return identity ? JSON.stringify([identity.subject, identity.alternativeNames]) : "anonymous";
}
