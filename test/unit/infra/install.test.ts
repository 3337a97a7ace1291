import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { isInstalled } from '../../../infra/install.mjs';
import { temporaryDirectory } from '../../kit/temporary.js';

type Packages = Record<string, { version: string; optional?: boolean }>;

function repository(wanted: Packages, present?: Packages): string {
  const root = temporaryDirectory();
  writeFileSync(join(root, 'package-lock.json'), JSON.stringify({ packages: { '': { version: '0.1.0' }, ...wanted } }));
  if (present) {
    mkdirSync(join(root, 'node_modules'));
    writeFileSync(join(root, 'node_modules/.package-lock.json'), JSON.stringify({ packages: present }));
  }
  return root;
}

const wanted: Packages = { 'node_modules/a': { version: '1.0.0' }, 'node_modules/b-windows': { version: '2.0.0', optional: true } };

it('asks for an installation in a bare clone', () => {
  expect(isInstalled(repository(wanted))).toBe(false);
});

it('is content when everything is there but the packages of other platforms', () => {
  expect(isInstalled(repository(wanted, { 'node_modules/a': { version: '1.0.0' } }))).toBe(true);
});

it('notices another version, a missing package, and an optional one of another version', () => {
  expect(isInstalled(repository(wanted, { 'node_modules/a': { version: '1.0.1' } }))).toBe(false);
  expect(isInstalled(repository(wanted, {}))).toBe(false);
  expect(isInstalled(repository(wanted, { 'node_modules/a': { version: '1.0.0' }, 'node_modules/b-windows': { version: '1.9.0' } }))).toBe(false);
});

it('says so when there is no lock file', () => {
  expect(() => isInstalled(temporaryDirectory())).toThrow('package-lock.json: expected the lock file of this repository, found none');
});
