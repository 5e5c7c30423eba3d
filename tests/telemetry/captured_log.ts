import { configureSync, type LogRecord, resetSync } from "@logtape/logtape";

/** What this thread logs, until disposed: to be looked at, and not to be printed. */
export class CapturedLog implements Disposable {
  readonly records: LogRecord[] = [];
  #arrival = Promise.withResolvers<void>();

  constructor() {
    configureSync({
      reset: true,
      sinks: { records: (record) => this.#take(record) },
      loggers: [
        { category: "verbseal", sinks: ["records"], lowestLevel: "info" },
        { category: ["logtape", "meta"], sinks: [] },
      ],
    });
  }

  /** A line each: level, message and the values of these fields. */
  lines(...fields: string[]): string[] {
    return this.records.map(({ level, message, properties }) =>
      [level, message.join(""), ...fields.map((name) => properties[name])]
        .filter((part) => part !== undefined).join(" ")
    );
  }

  /** The first line, from now or before, that is as wanted. */
  async logged(wanted: (record: LogRecord) => boolean): Promise<LogRecord> {
    for (;;) {
      const record = this.records.find(wanted);
      if (record) return record;
      await this.#arrival.promise;
    }
  }

  [Symbol.dispose](): void {
    resetSync();
  }

  #take(record: LogRecord): void {
    this.records.push(record);
    this.#arrival.resolve();
    this.#arrival = Promise.withResolvers<void>();
  }
}
