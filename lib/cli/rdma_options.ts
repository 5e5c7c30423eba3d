import { Option } from "commander";
import { DEFAULT_CM_PORT } from "../rdma/verbs/connection_manager.ts";
import { wholeNumber } from "./values.ts";

/** Which provider and port to use. */
export function deviceOption(): Option {
  return new Option(
    "--device <name>",
    "an RDMA port, as NAME or NAME:PORT; roce:ADDRESS or roce for the embedded provider, which " +
      "needs no RDMA device, on an address of this host or on that of the connection; auto for " +
      "the RDMA port that has the connection's address, else the embedded provider",
  ).default("auto");
}

/** Where the connection manager is asked, with `--connect cm`. */
export function cmPortOption(): Option {
  return new Option("--cm-port <port>", "service port of the connection manager")
    .argParser(wholeNumber(1, 65535)).default(DEFAULT_CM_PORT);
}
