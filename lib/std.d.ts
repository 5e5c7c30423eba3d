// Types of the few functions used of Deno's standard library: its npm package carries none.
// Moving the imports of deno.json to jsr:@std/… makes this file unnecessary.

declare module "@std/assert" {
  type ErrorClass = abstract new (...args: never[]) => Error;
  export function assert(condition: unknown, message?: string): asserts condition;
  export function assertEquals<T>(actual: T, expected: T, message?: string): void;
  export function assertNotEquals<T>(actual: T, expected: T, message?: string): void;
  export function assertStringIncludes(actual: string, expected: string, message?: string): void;
  export function assertMatch(actual: string, expected: RegExp, message?: string): void;
  export function assertThrows<E extends Error = Error>(
    run: () => unknown,
    errorClass?: abstract new (...args: never[]) => E,
    messageIncludes?: string,
  ): E;
  export function assertRejects<E extends Error = Error>(
    run: () => PromiseLike<unknown>,
    errorClass?: abstract new (...args: never[]) => E,
    messageIncludes?: string,
  ): Promise<E>;
}

declare module "@std/async/deadline" {
  export function deadline<T>(promise: Promise<T>, milliseconds: number): Promise<T>;
}

declare module "@std/async/delay" {
  export function delay(
    milliseconds: number,
    options?: { signal?: AbortSignal; persistent?: boolean },
  ): Promise<void>;
}

declare module "@std/async/retry" {
  export function retry<T>(
    attempt: () => Promise<T>,
    options?: {
      multiplier?: number;
      maxTimeout?: number;
      maxAttempts?: number;
      minTimeout?: number;
      jitter?: number;
      isRetriable?: (error: unknown) => boolean;
      signal?: AbortSignal;
    },
  ): Promise<T>;
}

declare module "@std/crypto/timing-safe-equal" {
  export function timingSafeEqual(a: ArrayBufferView, b: ArrayBufferView): boolean;
}

declare module "@std/encoding/base64" {
  export function encodeBase64(data: Uint8Array | ArrayBuffer | string): string;
  export function decodeBase64(text: string): Uint8Array<ArrayBuffer>;
}

declare module "@std/encoding/base64url" {
  export function encodeBase64Url(data: Uint8Array | ArrayBuffer | string): string;
  export function decodeBase64Url(text: string): Uint8Array<ArrayBuffer>;
}

declare module "@std/encoding/hex" {
  export function encodeHex(data: Uint8Array | ArrayBuffer | string): string;
  export function decodeHex(text: string): Uint8Array<ArrayBuffer>;
}

declare module "@std/fmt/bytes" {
  export function format(bytes: number, options?: { binary?: boolean }): string;
}

// cli-progress, which is not of the standard library, carries none either.
declare module "cli-progress" {
  export interface Options {
    format: string;
    formatValue: (value: number, options: Options, type: string) => string;
    barsize: number;
    gracefulExit: boolean;
  }
  export class SingleBar {
    constructor(options: Partial<Options>);
    start(total: number, value: number, payload: Record<string, string>): void;
    update(value: number, payload: Record<string, string>): void;
    stop(): void;
  }
}

declare module "@std/streams/text-line-stream" {
  export class TextLineStream extends TransformStream<string, string> {}
}
