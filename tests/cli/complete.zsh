# Prints what zsh would offer for each command line, one candidate a line, and an empty line after
# each: zsh -f complete.zsh SCRIPT LINE…
# Completion works in an interactive zsh only, so this drives one on a pseudo-terminal.
zmodload zsh/zpty
zpty shell zsh -f -i

zpty -w shell "source ${(q)0:A:h}/capture.zsh ${(q)1}"
zpty -r shell ignored '*LOAD''ED*'
for line in "${@[2,-1]}"; do
  zpty -n -w shell "$line"$'\t'
  zpty -r shell output '*COMPLE''TE*'
  print -r -- "$output" | tr -d '\r' | sed -n 's/^.*CANDIDATE //p'
  print
  # Ctrl-U empties the line for the next.
  zpty -n -w shell $'\x15'
done
zpty -d shell
