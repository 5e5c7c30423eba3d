import type { Connect, Service, Transport } from "../control/messages.ts";
import type { Audit } from "../security/audit.ts";
import type { Policy } from "../security/policy.ts";
import type { PsnSource } from "../security/psn.ts";
import type { CheckRevocation } from "../tls/revocation.ts";
import type { Admission } from "./admission.ts";
import type {
  DataPathOptions,
  PortChoice,
  QueuePairPath,
  QueuePairPathOptions,
  StreamPath,
} from "./data_path.ts";
import type { Joins } from "./joins.ts";
import type { Limits } from "./limits.ts";
import type { SealMode } from "./sealing.ts";
import type { ConnectQueuePair } from "./session_queue_pair.ts";

/** What all sessions of a server share. */
export interface ServerContext {
  readonly limits: Limits;
  readonly admission: Admission;
  readonly psns: PsnSource;
  readonly services: readonly Service[];
  /** The policy in force, asked for each client anew; without it all may do everything. */
  readonly policy?: () => Policy;
  /** Throws a TlsError if the certificate that a client has shown is revoked. */
  readonly checkRevocation?: CheckRevocation;
  /** Where security events are recorded, if anywhere. */
  readonly audit?: Audit | undefined;
  /** What this server carries data by. */
  readonly transports: readonly Transport[];
  /** Ways to bring a queue pair up that this server offers. */
  readonly connectQueuePair: Partial<Record<Connect, ConnectQueuePair>>;
  readonly seal: SealMode;
  /** The port for a client that reached this address of ours. */
  readonly selectPort: (localAddress: string) => PortChoice;
  readonly openDataPath: (options: QueuePairPathOptions) => QueuePairPath;
  /** Needed for the transport ktls. */
  readonly streams?: {
    readonly joins: Joins;
    readonly openDataPath: (options: DataPathOptions) => StreamPath;
  };
}
