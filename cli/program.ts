import { Command, InvalidArgumentError, Option } from 'commander';
import { ask, type AskOptions } from './commands/ask.js';
import { dev, type DevOptions } from './commands/dev.js';
import { doctor } from './commands/doctor.js';
import { quickstart, type QuickstartOptions } from './commands/quickstart.js';
import { report, type ReportOptions } from './commands/report.js';
import { run, type RunOptions } from './commands/run.js';
import { status } from './commands/status.js';
import { watch } from './commands/watch.js';
import type { Console } from './console.js';

/** The commands. Tests give their own. */
export const commands = { ask, dev, doctor, quickstart, report, run, status, watch };

export interface ProgramOptions {
  /** Made once it is known whether output is to be JSON. */
  console(json: boolean): Console;
  /** Aborted by Ctrl-C. */
  signal: AbortSignal;
  actions?: typeof commands;
}

const exitCodeHelp = `
Exit codes:
  0    done
  1    the run failed, or doctor found a problem
  2    wrong usage, or a configuration with problems
  3    no Temporal server answers, or it has no such run
  130  interrupted

The server is that of temporal.toml and TEMPORAL_* variables; without them, the one of \`npm run dev\`.`;

export function createProgram({ console, signal, actions = commands }: ProgramOptions): Command {
  const program = new Command('temper')
    .description('Fine-tune open language models with LoRA and QLoRA as durable Temporal workflows.')
    .addHelpText('after', exitCodeHelp)
    .showSuggestionAfterError()
    .showHelpAfterError('(temper --help shows what there is)')
    .exitOverride();
  const add = (usage: string, description: string): Command =>
    program.command(usage).description(description).option('--json', 'machine-readable output, one JSON value a line').exitOverride();
  const output = (options: { json?: boolean }): Console => console(options.json ?? false);

  add('run <config>', 'start a run of a configuration file; the same configuration again joins it')
    .option('-w, --watch', 'show its progress until it ends')
    .option('--fresh', 'run every stage again, whatever earlier runs left')
    .option('--id <id>', 'workflow id; default: name and digest of the configuration')
    .action((file: string, options: RunOptions & { json?: boolean }) => actions.run(file, options, output(options), signal));
  add('watch <id>', 'show the progress of a run until it ends')
    .action((id: string, options: { json?: boolean }) => actions.watch(id, output(options), signal));
  add('status <id>', 'tell where a run is')
    .action((id: string, options: { json?: boolean }) => actions.status(id, output(options)));
  add('report <id>', 'fetch the report of a finished run and print its path')
    .option('-o, --out <file>', 'where the page goes; default: .temper/reports/<id>.html')
    .option('--open', 'show it in the browser')
    .action((id: string, options: ReportOptions & { json?: boolean }) => actions.report(id, options, output(options)));
  add('dev', 'run a Temporal server with its UI, and the workers, until Ctrl-C')
    .addOption(new Option('--port <port>', "the server's port; default: 7233 or a free one").argParser(port))
    .addOption(new Option('--ui-port <port>', "the UI's port; default: 8233 or a free one").argParser(port))
    .action((options: DevOptions & { json?: boolean }) => actions.dev(options, output(options), signal));
  add('quickstart', 'from nothing to a tuned model: start everything, run an example, show what came of it')
    .option('--config <file>', 'the configuration to run', 'examples/quickstart.json')
    .option('--fresh', 'run every stage again, whatever earlier runs left')
    .option('--keep', 'leave server and UI running until Ctrl-C')
    .action((options: QuickstartOptions & { json?: boolean }) => actions.quickstart(options, output(options), signal));
  add('ask <prompts...>', 'ask a model and adapters of it the same prompts, in one pass, and show the answers side by side')
    .requiredOption('-m, --model <uri>', 'the base model, as model.uri in a configuration')
    .option('-a, --adapter <uri>', 'a PEFT adapter of it, as lora.from in a configuration; may be given several times', (uri: string, others: string[]) => [...others, uri], [])
    .addOption(new Option('--base <dtype>', 'how the base is stored').choices(['nf4', 'int8', 'bf16', 'f32']).default('nf4'))
    .option('--chat', "prompts are the user's turn of the model's chat template")
    .addOption(new Option('--max-new-tokens <n>', 'longest answer').argParser(count).default(128))
    .option('--stop <text>', 'an answer ends before this text, beside EOS')
    .action((prompts: string[], options: AskOptions & { json?: boolean }) => actions.ask(prompts, options, output(options)));
  add('doctor', 'check what Temper needs on this machine, and train a tiny model for a moment')
    .action((options: { json?: boolean }) => actions.doctor(output(options)));
  return program;
}

function count(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError(`expected a whole number from 1 on, got ${text}`);
  return value;
}

function port(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > 65535) throw new InvalidArgumentError(`expected a port from 1 to 65535, got ${text}`);
  return value;
}
