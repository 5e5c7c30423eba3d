import { Option } from "commander";
import { DEFAULT_CM_PORT } from "../rdma/verbs/connection_manager.ts";
import { wholeNumber } from "./values.ts";

/** Which RDMA port to use. */
export function deviceOption(): Option {
  return new Option(
    "--device <name>",
    "auto, NAME or NAME:PORT; auto takes the port that has the TLS connection's address, else " +
      "the first active one",
  ).default("auto");
}

/** Where the connection manager is asked, with `--connect cm`. */
export function cmPortOption(): Option {
  return new Option("--cm-port <port>", "service port of the connection manager")
    .argParser(wholeNumber(1, 65535)).default(DEFAULT_CM_PORT);
}
