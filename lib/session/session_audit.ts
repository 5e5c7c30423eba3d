import * as v from "valibot";
import type { Service } from "../control/messages.ts";
import { errorText, VerbsealError } from "../errors.ts";
import { type Audit, type AuditEvent, auditRefusal } from "../security/audit.ts";
import type { SessionClient } from "./session_client.ts";
import type { SessionUsage } from "./usage.ts";

/** Characters of what a client says; no path is longer. */
const MAX_TEXT = 4096;

/** As the client has it, be it that its service refuses it; undefined where it is something else. */
const said = v.fallback(
  v.optional(
    v.union([v.pipe(v.string(), v.transform((text) => text.slice(0, MAX_TEXT))), v.number()]),
  ),
  undefined,
);

/** What is recorded of a REQUEST and of its REPLY: of the rest nobody knows whether it is secret. */
const recorded = v.object({
  operation: said,
  direction: said,
  path: said,
  offset: said,
  length: said,
  size: said,
  sha256: said,
});

function recordedOf(body: unknown): Record<string, string | number | undefined> {
  const parsed = v.safeParse(recorded, body);
  const fields = Object.entries(parsed.success ? parsed.output : {});
  return Object.fromEntries(fields.filter(([, value]) => value !== undefined));
}

/** The audit lines of one connection and its session; none where nobody records them. */
export class SessionAudit {
  /** The session's name, once it has one. */
  session: string | undefined;

  constructor(
    private readonly audit: Audit | undefined,
    private readonly peer: string,
    private readonly client: SessionClient,
  ) {}

  /** As {@linkcode Audit.record}. */
  async record(event: AuditEvent, fields: Record<string, unknown>): Promise<void> {
    const { session, peer, client: { identity } } = this;
    await this.audit?.record({ ...fields, event, session, peer, identity });
  }

  /** As `record`, of what nobody waits for. */
  note(event: AuditEvent, fields: Record<string, unknown>): void {
    this.record(event, fields).catch(() => {}); // the audit log itself says that it fails
  }

  /**
   * Decides what the client may do. Only that it may do nothing is recorded at once.
   *
   * @throws what `authorize` throws
   */
  decide(authorize: () => Service[]): Service[] {
    try {
      return authorize();
    } catch (error) {
      const { rule } = this.client.decision;
      this.note("policy", { allowed: false, rule, reason: codeOf(error) });
      throw error;
    }
  }

  /**
   * Records what was decided, of a client that there is room for: others leave the line of their
   * limit, of which there are few. It is on disk when this resolves.
   *
   * @throws RefusedError `audit` when the line cannot be written
   */
  async admitted(services: readonly Service[]): Promise<void> {
    await this.record("policy", { allowed: true, ...this.client.decision, services });
  }

  /**
   * The connection is over.
   *
   * @param accepted whether it had a session
   * @param usage undefined where nobody knows what services have done
   */
  over(
    accepted: boolean,
    outcome: Record<string, unknown>,
    usage: SessionUsage | undefined,
  ): void {
    this.note(accepted ? "ended" : "refused", { ...outcome, ...usageFields(usage) });
  }

  /**
   * Lets a service work on a REQUEST, unless that cannot be recorded. What it did, or why it did not,
   * is on disk when this resolves.
   *
   * @throws what the service throws; RefusedError `audit` when the line cannot be written
   */
  async call(service: Service, body: unknown, work: () => Promise<unknown>): Promise<unknown> {
    if (this.audit?.failing) throw auditRefusal();
    const call: Record<string, unknown> = { service, ...recordedOf(body) };
    const reply = await this.#worked(call, work);
    // What was lent to the peer was recorded as it was; that it is taken back tells nothing new.
    if (call["operation"] !== "withdraw") {
      await this.record("service", { ...call, ...recordedOf(reply), result: "done" });
    }
    return reply;
  }

  async #worked(call: Record<string, unknown>, work: () => Promise<unknown>): Promise<unknown> {
    try {
      return await work();
    } catch (error) {
      await this.record("service", { ...call, result: codeOf(error), detail: errorText(error) });
      throw error;
    }
  }
}

/** What the last line of a session tells of its calls; nothing where there were none. */
export function usageFields(usage: SessionUsage | undefined): { usage?: SessionUsage | "unknown" } {
  if (!usage) return { usage: "unknown" };
  return Object.keys(usage).length === 0 ? {} : { usage };
}

function codeOf(error: unknown): string {
  return error instanceof VerbsealError ? error.code : "internal";
}
