import type { RunStatus } from '../../contracts/pipeline.js';
import type { Console } from '../console.js';
import { logLines } from './log-lines.js';
import { terminalLines } from './terminal-lines.js';

export interface ProgressView {
  show(status: RunStatus): void;
  /** A line beside the progress, e.g. a restarted worker. */
  note(line: string): void;
  /** Leaves the last state on the screen. */
  end(): void;
}

/** Repainted in place on a terminal, plain lines in a log, one JSON status a line with `--json`. */
export function progressView(console: Console, previous?: RunStatus): ProgressView {
  if (console.json) return jsonView(console);
  return console.isTerminal ? terminalView(console) : logView(console, previous);
}

function terminalView(console: Console): ProgressView {
  let painted: string[] = [];
  const paint = (lines: string[], above: string[] = []): void => {
    // Up to the first painted line, then clear everything below it.
    const rewind = painted.length > 0 ? `\x1b[${painted.length}A\x1b[0J` : '';
    if (above.length + lines.length > 0) console.err(rewind + [...above, ...lines].join('\n'));
    painted = lines;
  };
  return {
    show: (status) => paint(terminalLines(status, console.columns())),
    note: (line) => paint(painted, [line]),
    end: () => {
      painted = [];
    },
  };
}

function logView(console: Console, previous?: RunStatus): ProgressView {
  return {
    show: (status) => {
      logLines(previous, status).forEach((line) => console.err(line));
      previous = status;
    },
    note: (line) => console.err(line),
    end: () => {},
  };
}

function jsonView(console: Console): ProgressView {
  let last = '';
  return {
    show: (status) => {
      const line = JSON.stringify(status);
      if (line !== last) console.out(line);
      last = line;
    },
    note: (line) => console.err(line),
    end: () => {},
  };
}
