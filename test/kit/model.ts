import { describe } from 'vitest';
import { fetchBuiltInModel } from '../../activities/sources/built-in-models.js';

const name = 'smollm2-135m-instruct';

/** The directory of SmolLM2-135M-Instruct: TEMPER_TEST_MODEL, or the project's cache, fetched into it when it is not there. */
export const fetchTestModel = async (): Promise<string> =>
  process.env.TEMPER_TEST_MODEL ?? fetchBuiltInModel(name, process.env.TEMPER_CACHE ?? '.temper/cache');

/** Tests on the real model; shown as skipped, with the reason, where it cannot be fetched. */
export async function describeWithModel(title: string, tests: (directory: string) => void): Promise<void> {
  const found = await fetchTestModel().catch((error: Error) => error);
  if (typeof found === 'string') describe(title, () => tests(found));
  else describe.skip(`${title} (${name} could not be fetched: ${found.message.split('\n')[0]})`, () => tests(''));
}
