import { configureSync, type LogRecord, resetSync } from "@logtape/logtape";

/** What this thread logs, until disposed: to be looked at, and not to be printed. */
export class CapturedLog implements Disposable {
  readonly records: LogRecord[] = [];

  constructor() {
    configureSync({
      reset: true,
      sinks: { records: (record) => this.records.push(record) },
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

  [Symbol.dispose](): void {
    resetSync();
  }
}
