import { RdmaError } from "../errors.ts";

/** Used after it was disposed. */
export class DisposedError extends RdmaError {
  override readonly name = "DisposedError";

  constructor(object: string) {
    super("disposed", `${object} was used after its end`);
  }
}
