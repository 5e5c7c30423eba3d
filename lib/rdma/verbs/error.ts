import { errnoName } from "../../../ffi/libc.ts";
import { RdmaError } from "../../errors.ts";

const lockedMemory =
  "raise the locked-memory limit (ulimit -l unlimited, LimitMEMLOCK=infinity in a systemd unit, --ulimit memlock=-1 for a container)";
const deviceFiles = "the user needs access to /dev/infiniband/uverbs*";

/** Likely causes by call and error number, from the man pages and from what the kernel does. */
const remedies: Readonly<Record<string, string>> = {
  "ibv_reg_mr ENOMEM": lockedMemory,
  "ibv_reg_mr EPERM": lockedMemory, // with a limit of 0
  "ibv_create_cq ENOMEM":
    "raise the locked-memory limit (ulimit -l), or lower the number of clients",
  "ibv_create_qp ENOMEM":
    "raise the locked-memory limit (ulimit -l), or lower the number of clients",
  "ibv_create_qp EINVAL":
    "the device holds fewer work requests, buffers or inline bytes than asked",
  "ibv_open_device EACCES": deviceFiles,
  "ibv_open_device EPERM": deviceFiles,
  "ibv_open_device ENOENT": deviceFiles, // libibverbs then looks for the device elsewhere, in vain
  "ibv_post_send ENOMEM": "the send queue is full: take completions before posting more",
  "ibv_post_recv ENOMEM": "the receive queue is full",
};

/** A verbs call that failed. */
export class VerbsError extends RdmaError {
  override readonly name = "VerbsError";
  /** C's name of the error number, for example ENOMEM. */
  readonly errno: string;

  /** @param errno positive error number; verbs calls that return an int return it, the others leave it in errno */
  constructor(readonly call: string, errno: number) {
    const name = errnoName(errno);
    super("verbs_call_failed", `${call} failed with ${name}`, remedies[`${call} ${name}`] ?? "");
    this.errno = name;
  }
}

/** @throws VerbsError when a verbs call returned an error number */
export function checkVerbs(call: string, result: number): void {
  if (result !== 0) throw new VerbsError(call, Math.abs(result));
}
