import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe } from 'vitest';

/** The directory of SmolLM2-135M-Instruct: TEMPER_TEST_MODEL, or the project's own cache; undefined when it is in neither. */
export function testModelDirectory(): string | undefined {
  const places = [process.env.TEMPER_TEST_MODEL, join(process.env.TEMPER_CACHE ?? '.temper/cache', 'models/smollm2-135m-instruct')];
  return places.find((place) => place !== undefined && existsSync(place));
}

/** Tests on the real model; shown as skipped, with the reason, where it is not at hand. */
export function describeWithModel(name: string, tests: (directory: string) => void): void {
  const directory = testModelDirectory();
  if (directory) describe(name, () => tests(directory));
  else describe.skip(`${name} (SmolLM2 is not in the cache: npm run quickstart fetches it)`, () => tests(''));
}
