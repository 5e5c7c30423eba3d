import type { JoinTokens } from "../control/join.ts";
import type { Welcome } from "../control/messages.ts";
import type { DataConnection } from "../tls/data_connection.ts";
import type { StreamPath } from "./data_path.ts";

/** What sessions over data connections need. */
export interface StreamTransport {
  /** Makes the data path, once its connection is there. */
  readonly openDataPath: (welcome: Welcome) => StreamPath;
  /** Data connections of this session are let in, or made, from now on. */
  readonly link: (welcome: Welcome, tokens: JoinTokens) => StreamLink;
}

/** Where the data connections of a session come from. Disposing it ends that, and wipes the tokens. */
export interface StreamLink extends Disposable {
  /**
   * The data connection of the next epoch, both tokens compared.
   *
   * @throws VerbsealError when it cannot be made, or the link was disposed
   */
  next(): Promise<DataConnection>;
}
