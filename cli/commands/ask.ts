import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { askResultSchema, type AskedAnswer, type AskJob } from '../../contracts/ask.js';
import { InvalidInputError } from '../../contracts/errors.js';
import { loadConfig } from '../../temporal.config.js';
import { CliError } from '../cli-error.js';
import type { Console } from '../console.js';
import { typeScript } from '../worker-processes.js';

export interface AskOptions {
  model: string;
  adapter: string[];
  base: 'nf4' | 'int8' | 'bf16' | 'f32';
  chat?: boolean;
  maxNewTokens: number;
  stop?: string;
}

const mostOutput = 64 << 20;

/** Asks a base model and adapters of it the same prompts, all in one pass, and shows the answers side by side. Needs no server. */
export async function ask(prompts: string[], { model, adapter, base, chat = false, maxNewTokens, stop }: AskOptions, console: Console): Promise<void> {
  const job: AskJob = {
    model, base: base === 'nf4' ? { dtype: base, doubleQuant: true } : { dtype: base }, adapters: adapter, prompts, chat, maxNewTokens, stop,
    backend: loadConfig().backend,
  };
  const { command, args } = typeScript('workers/ask.ts');
  const { stdout } = await promisify(execFile)(command, [...args, JSON.stringify(job)], { maxBuffer: mostOutput }).catch((error: { stderr?: string; message: string }) => {
    throw new CliError('failed', `The engine process ended without answers:\n${error.stderr?.trim() || error.message}`);
  });
  const line = stdout.trim().split('\n').at(-1)!;
  const result = askResultSchema.parse(JSON.parse(line));
  if ('problems' in result) throw new InvalidInputError(result.problems);
  if (console.json) console.out(line);
  else for (const prompt of prompts) console.out(sideBySide(prompt, result.answers.filter((answer) => answer.prompt === prompt)));
}

const sideBySide = (prompt: string, answers: readonly AskedAnswer[]): string =>
  [
    prompt,
    ...answers.flatMap(({ adapter, text, tokens, stopped }) => [
      '', `── ${adapter ?? 'base'} (${tokens} tokens${stopped ? '' : ', cut at the limit'})`, text || '(nothing)',
    ]),
    '',
  ].join('\n');
