import type { Service, Transport } from "../control/messages.ts";
import { RefusedError } from "../errors.ts";
import {
  type Allowance,
  forbidden,
  identityName,
  type Permissions,
  type Policy,
  ruleFor,
  unrestricted,
} from "../security/policy.ts";
import { identityFields, type PeerIdentity, peerIdentity } from "../tls/peer_identity.ts";
import { accountOf, type SessionQuota } from "./admission.ts";

/** Who a session's client is, and what it may do: decided once, for the life of the session. */
export class SessionClient {
  #identity: PeerIdentity | undefined;
  #identified = false;
  #allows: Allowance = unrestricted;
  /** Of the policy. */
  #ruleName: string | undefined;

  /**
   * @param certificates that the client has shown, its own first
   * @throws TlsError when its certificate cannot be read
   */
  async identify([certificate]: readonly Uint8Array[]): Promise<void> {
    if (certificate) this.#identity = await peerIdentity(certificate);
    this.#identified = true;
  }

  /** What carries data where the server has no RDMA device and the client offers both. */
  get withoutRdma(): Transport {
    return this.#allows.withoutRdma;
  }

  /**
   * @param offered services of the server
   * @param wanted services of the client
   * @returns those services of both that the client may use
   * @throws RefusedError when there are none
   */
  authorize(
    offered: readonly Service[],
    wanted: readonly Service[],
    policy: Policy | undefined,
  ): Service[] {
    if (policy) {
      const rule = ruleFor(policy, this.#identity);
      if (!rule) throw forbidden();
      this.#ruleName = rule.name;
      this.#allows = rule.allows;
    }
    const common = offered.filter((service) => wanted.includes(service));
    if (common.length === 0) {
      throw new RefusedError("service", `this server offers ${offered.join(", ")} only`);
    }
    const allowed = common.filter((service) => this.#allows.services.includes(service));
    if (allowed.length === 0) throw forbidden();
    return allowed;
  }

  /**
   * Clients without certificate have no identity to count by, unless the policy says so.
   *
   * @param usual of one identity, where the policy says nothing
   */
  quota(usual: number): SessionQuota {
    const sessions = this.#allows.sessions ?? (this.#identity ? usual : Infinity);
    return { identity: this.name, sessions };
  }

  /** Whom what it has and does counts for: its identity, or its address where it has shown no certificate. */
  owner(address: string): string {
    return this.#identity ? this.name : accountOf(address);
  }

  /** Of its identity; those without a certificate are all the same. */
  get name(): string {
    return identityName(this.#identity);
  }

  get permissions(): Permissions {
    return this.#allows.permissions;
  }

  /** For audit lines; undefined while it is not known. */
  get identity(): Record<string, unknown> | "anonymous" | undefined {
    if (this.#identity) return identityFields(this.#identity);
    return this.#identified ? "anonymous" : undefined;
  }

  /** What the policy says, for audit lines. */
  get decision(): Record<string, unknown> {
    const { permissions: { access, root }, sessions } = this.#allows;
    return {
      rule: this.#ruleName,
      access,
      root,
      ...(Number.isFinite(sessions) ? { sessions } : {}),
    };
  }

  /** For the session's log lines; nothing where nothing is known. */
  get fields(): Record<string, unknown> {
    return {
      ...(this.#identity ? { ...identityFields(this.#identity), verified: "yes" } : {}),
      ...(this.#ruleName === undefined ? {} : { rule: this.#ruleName }),
    };
  }
}
