/** Where a command writes and how. Results go to `out`, all that accompanies them to `err`. */
export interface Console {
  out(text: string): void;
  err(text: string): void;
  /** Machine-readable output was asked for. */
  json: boolean;
  /** Progress may be repainted in place. */
  isTerminal: boolean;
  /** Width of the terminal in characters. */
  columns(): number;
}

export function systemConsole(json: boolean): Console {
  return {
    out: (text) => void process.stdout.write(`${text}\n`),
    err: (text) => void process.stderr.write(`${text}\n`),
    json,
    isTerminal: Boolean(process.stderr.isTTY) && process.env.TERM !== 'dumb' && !process.env.CI,
    columns: () => process.stderr.columns || 80,
  };
}
