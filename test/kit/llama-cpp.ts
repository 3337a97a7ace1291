import { describe } from 'vitest';
import { setUpLlamaCpp } from '../../infra/tools/llama-cpp.mjs';

/** Tests that need llama.cpp (see infra/tools/llama-cpp.mjs), which is fetched into the project's cache when it is not there; shown as skipped, with the reason, where it cannot be. */
export async function describeWithLlamaCpp(title: string, tests: (directory: string) => void): Promise<void> {
  const found = await setUpLlamaCpp(process.env.TEMPER_CACHE ?? '.temper/cache').catch((error: Error) => error);
  if (typeof found === 'string') describe(title, () => tests(found));
  else describe.skip(`${title} (llama.cpp cannot be had: ${found.message.split('\n')[0]})`, () => tests(''));
}
