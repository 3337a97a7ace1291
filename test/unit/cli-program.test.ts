import { CommanderError } from 'commander';
import { describe, expect, it, vi } from 'vitest';
import { createProgram, commands } from '../../cli/program.js';

/** Parses a command line with commands that only record how they are called. */
async function parse(...args: string[]) {
  const actions = Object.fromEntries(Object.keys(commands).map((name) => [name, vi.fn(async () => {})])) as unknown as typeof commands;
  const output: string[] = [];
  const program = createProgram({
    console: (json) => ({ out: () => {}, err: () => {}, json, isTerminal: false, columns: () => 80 }),
    signal: new AbortController().signal,
    actions,
  });
  for (const command of [program, ...program.commands]) command.configureOutput({ writeErr: (text) => output.push(text), writeOut: (text) => output.push(text) });
  const error = await program.parseAsync(args, { from: 'user' }).then(() => undefined, (caught: unknown) => caught);
  return { actions: vi.mocked(actions), output: output.join(''), error };
}

describe('temper', () => {
  it('passes a configuration and its options to run', async () => {
    const { actions } = await parse('run', 'a.json', '--watch', '--fresh', '--id', 'mine', '--json');
    expect(actions.run).toHaveBeenCalledWith('a.json', { watch: true, fresh: true, id: 'mine', json: true }, expect.objectContaining({ json: true }), expect.anything());
  });

  it('runs the example of the quickstart unless another is given', async () => {
    const { actions } = await parse('quickstart', '--keep');
    expect(actions.quickstart).toHaveBeenCalledWith({ config: 'examples/quickstart.json', keep: true }, expect.objectContaining({ json: false }), expect.anything());
  });

  it('knows --json everywhere', async () => {
    for (const line of [['status', 'x'], ['watch', 'x'], ['report', 'x'], ['doctor'], ['dev'], ['quickstart'], ['run', 'x']]) {
      expect((await parse(...line, '--json')).error, line[0]).toBeUndefined();
    }
  });

  it('asks whether a near command was meant', async () => {
    const { output, error } = await parse('statsu', 'x');
    expect(error).toBeInstanceOf(CommanderError);
    expect(output).toContain("unknown command 'statsu'\n(Did you mean status?)");
  });

  it('asks whether a near option was meant', async () => {
    expect((await parse('run', 'a.json', '--wach')).output).toContain('(Did you mean --watch?)');
  });

  it('refuses a port that is none', async () => {
    expect((await parse('dev', '--port', '70000')).output).toContain('expected a port from 1 to 65535, got 70000');
  });

  it('documents the exit codes', async () => {
    expect((await parse('--help')).output).toMatch(/Exit codes:\n {2}0 +done\n {2}1 .*\n {2}2 .*\n {2}3 .*\n {2}130 +interrupted/);
  });
});
