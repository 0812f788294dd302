//! The commands in shell lines, as far as documentation needs.

/// The commands of a block: lines that begin with a prompt or the name of a program that is checked, without their output.
pub(crate) fn of_block(block: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let mut lines = block.lines();
    while let Some(line) = lines.next() {
        let is_command = line.starts_with("$ ") || line.starts_with("keyward ") || line.starts_with("make ");
        if !is_command {
            continue;
        }
        let mut command = line.strip_prefix("$ ").unwrap_or(line).to_owned();
        while let Some(begun) = command.strip_suffix('\\') {
            command = format!("{begun} {}", lines.next().unwrap_or_default());
        }
        commands.extend(of_line(&command));
    }
    commands
}

/// The commands of a line, each as words without assignments before it and redirections behind it.
pub(crate) fn of_line(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let (mut quote, mut is_target) = (None, false);
    // A line ends like a command.
    for c in line.chars().chain([';']) {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '#') if word.is_none() => break,
            (None, ' ' | ';' | '|' | '&' | '<' | '>') => {
                if let Some(word) = word.take() {
                    // `2` of `2>file` is no argument either.
                    let is_descriptor = matches!(c, '<' | '>') && word.bytes().all(|c| c.is_ascii_digit());
                    if !(std::mem::take(&mut is_target) || is_descriptor) {
                        words.push(word);
                    }
                }
                match c {
                    '<' | '>' => is_target = true,
                    ';' | '|' | '&' => commands.push(std::mem::take(&mut words)),
                    _ => {}
                }
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word.filter(|_| !is_target));
    commands.push(words);
    let is_assignment = |word: &String| {
        word.split_once('=').is_some_and(|(name, _)| name.bytes().all(|c| c.is_ascii_uppercase() || c == b'_'))
    };
    let commands = commands.into_iter().map(|words| words.into_iter().skip_while(is_assignment).collect());
    commands.filter(|words: &Vec<String>| !words.is_empty()).collect()
}

#[test]
fn line_is_split_into_commands_and_words() {
    let of = |line: &str| of_line(line).iter().map(|words| words.join("/")).collect::<Vec<_>>();
    assert_eq!(of("A=1 B='x y' keyward keys list --json # all"), ["keyward/keys/list/--json"]);
    assert_eq!(of("cat f | keyward keys import - && make test &"), ["cat/f", "keyward/keys/import/-", "make/test"]);
    assert_eq!(of("keyward openapi > o.json 2>e <i"), ["keyward/openapi"]);
    assert_eq!(of("curl -d '{\"a b\": 1}' \"x;y\""), ["curl/-d/{\"a b\": 1}/x;y"]);
}

#[test]
fn block_has_commands_and_their_continuations() {
    let block = "$ keyward relay --upstream u \\\n    --upstream-token-file f\noutput\nkeyward serve\n";
    let commands: Vec<_> = of_block(block).iter().map(|words| words.join(" ")).collect();
    assert_eq!(commands, ["keyward relay --upstream u --upstream-token-file f", "keyward serve"]);
}
