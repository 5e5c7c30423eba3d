import { errno } from "../../../ffi/libc.ts";
import { DisposedError } from "../disposed_error.ts";
import { checkVerbs, VerbsError } from "./error.ts";

/** Something that libibverbs made: one owner, one end, and no use after it. */
export abstract class VerbsObject implements Disposable {
  #pointer: Deno.PointerObject | null;

  /**
   * @param pointer what the call that made it returned
   * @throws VerbsError with errno when that was null
   */
  constructor(
    call: string,
    pointer: Deno.PointerValue,
    private readonly destroyCall: string,
    private readonly destroy: (pointer: Deno.PointerObject) => number,
  ) {
    if (pointer === null) throw new VerbsError(call, errno());
    this.#pointer = pointer;
  }

  /** @throws DisposedError after disposal */
  get pointer(): Deno.PointerObject {
    this.assertOpen();
    return this.#pointer!;
  }

  /** @throws DisposedError after disposal */
  protected assertOpen(): void {
    if (this.#pointer === null) throw new DisposedError(this.constructor.name);
  }

  get disposed(): boolean {
    return this.#pointer === null;
  }

  /** Gives it up to who destroys it: from then on it is disposed. */
  protected release(): Deno.PointerValue {
    const pointer = this.#pointer;
    this.#pointer = null;
    return pointer;
  }

  [Symbol.dispose](): void {
    const pointer = this.release();
    if (pointer !== null) checkVerbs(this.destroyCall, this.destroy(pointer));
  }
}
