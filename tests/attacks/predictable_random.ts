/**
 * Makes what this thread draws by WebCrypto predictable until it is disposed: each number is the
 * one after the last, as with the generators that ReDMArk found.
 */
export class PredictableRandom implements Disposable {
  readonly #real = crypto.getRandomValues;

  constructor() {
    let next = 1;
    const draw = <T extends ArrayBufferView>(array: T): T => {
      const words = new Uint32Array(array.buffer, array.byteOffset, array.byteLength >> 2);
      // Queue pair numbers and keys are taken from the upper bits.
      for (let index = 0; index < words.length; index++) words[index] = next++ << 8;
      return array;
    };
    crypto.getRandomValues = draw as typeof crypto.getRandomValues;
  }

  [Symbol.dispose](): void {
    crypto.getRandomValues = this.#real;
  }
}
