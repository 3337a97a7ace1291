import { loadConfig } from '../../temporal.config.js';
import { CliError } from '../cli-error.js';
import type { Console } from '../console.js';
import type { Finding } from '../doctor/check.js';
import { checkLlamaCpp, checkMemory, checkNode, checkPython, checkStore, checkTemporalCli, checkTemporalServer } from '../doctor/checks.js';
import { checkEngine } from '../doctor/engine.js';

const marks: Record<Finding['state'], string> = { ok: '✓', warning: '!', problem: '✗' };

/** Checks what Temper needs on this machine and says what to do about what is missing. @throws CliError when something is wrong */
export async function doctor(console: Console): Promise<void> {
  const config = loadConfig();
  const findings: Finding[] = [];
  const checks: (() => Finding | Promise<Finding | Finding[]>)[] = [
    checkNode,
    checkMemory,
    checkPython,
    () => checkTemporalCli(config),
    () => checkTemporalServer(config),
    () => checkStore(config),
    () => checkLlamaCpp(config),
    () => checkEngine(config.backend),
  ];
  for (const check of checks) {
    const found = [await check()].flat();
    findings.push(...found);
    if (!console.json) found.flatMap(findingLines).forEach((line) => console.out(line));
  }
  if (console.json) console.out(JSON.stringify({ findings }));
  const problems = findings.filter(({ state }) => state === 'problem');
  if (problems.length > 0) throw new CliError('failed', `Not ready: ${problems.map(({ name }) => name).join(', ')}`);
  if (!console.json) console.out('Ready.');
}

const findingLines = ({ name, state, detail, remedy }: Finding): string[] => [
  `${marks[state]} ${name.padEnd(16)} ${detail}`,
  ...(remedy && state !== 'ok' ? [`  ${''.padEnd(16)} → ${remedy}`] : []),
];
