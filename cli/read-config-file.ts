import { readFile } from 'node:fs/promises';
import { checkConfig } from '../contracts/check-config.js';
import type { FineTuneInput } from '../contracts/fine-tune-config.js';
import { CliError } from './cli-error.js';

/**
 * Reads and checks a configuration. Returns it as written: the defaults are the workflow's to fill in.
 * @throws CliError when the file cannot be read or is not JSON; InvalidInputError with every problem in it
 */
export async function readConfigFile(file: string): Promise<FineTuneInput> {
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw new CliError('badInput', `${file}: expected a readable file, got ${error.code ?? error.message}`);
  });
  const config = parse(file, text);
  checkConfig(config);
  return config as FineTuneInput;
}

function parse(file: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new CliError('badInput', `${file}: expected JSON, got ${(error as Error).message}`);
  }
}
