//! Waiting for the host on behalf of a script: what a guest answers with "the host will" is asked again until the host has.

use wirevm_agent::{Command, MAIN_TASK, Reply, Request};

/// What a guest that awaits the host is told to be, while the script itself keeps the host from answering.
const HELD: &str = "an operation waits for storage, which the script holds";

/// Carries a request out by `ask`, and for as long as the guest awaits the host, asks it to go on. So [`Reply::Awaits`] never
/// comes out of this.
///
/// `is_held` tells that the script holds storage: then nobody but a later line lets the host answer, and what awaits it is
/// [`Reply::Blocked`]; of a question about the whole system, which has to come to rest, it is a violation.
///
/// Whoever gives `ask` also ends the waiting: by an error, when the machine has ended or the time is over.
///
/// # Errors
/// The first of `ask`.
pub fn settled<E>(
    request: &Request,
    is_held: bool,
    mut ask: impl FnMut(&Request) -> Result<Reply, E>,
) -> Result<Reply, E> {
    let mut reply = ask(request)?;
    while reply == Reply::Awaits {
        if is_held {
            return Ok(match request.command {
                Command::Quiesce | Command::Reset => Reply::Violation(HELD.to_owned()),
                _ => Reply::Blocked,
            });
        }
        reply = ask(&Request::new(MAIN_TASK, Command::AwaitHost))?;
    }
    Ok(reply)
}

#[cfg(test)]
mod test {
    use wirevm_agent::{Command, MAIN_TASK, Reply, Request};
    use wirevm_map::KernReturn;

    use super::{HELD, settled};

    const SUCCESS: Reply = Reply::Done(KernReturn::Success);

    /// Returns what comes out of a request, and the commands that were given.
    fn asked(
        command: Command,
        is_held: bool,
        answers: &[Result<Reply, &'static str>],
    ) -> (Result<Reply, &'static str>, Vec<Command>) {
        let (mut answers, mut commands) = (answers.iter().cloned(), Vec::new());
        let reply = settled(&Request::new(MAIN_TASK, command), is_held, |request| {
            commands.push(request.command);
            answers.next().expect("an answer is left")
        });
        assert_eq!(answers.next(), None, "an answer was not asked for");
        (reply, commands)
    }

    #[test]
    fn awaiting_guest_is_asked_to_go_on_until_it_answers() {
        let command = Command::Join { thread: 1 };
        assert_eq!(asked(command, false, &[Ok(SUCCESS)]), (Ok(SUCCESS), vec![command]));
        let answers = [Ok(Reply::Awaits), Ok(Reply::Awaits), Ok(Reply::Blocked)];
        let commands = vec![command, Command::AwaitHost, Command::AwaitHost];
        assert_eq!(asked(command, false, &answers), (Ok(Reply::Blocked), commands));
    }

    #[test]
    fn held_storage_blocks_and_is_a_violation_where_everything_must_rest() {
        let awaits = [Ok(Reply::Awaits)];
        for command in [Command::Join { thread: 1 }, Command::Poll { thread: 1 }, Command::Completions] {
            assert_eq!(asked(command, true, &awaits), (Ok(Reply::Blocked), vec![command]));
        }
        for command in [Command::Quiesce, Command::Reset] {
            assert_eq!(asked(command, true, &awaits), (Ok(Reply::Violation(HELD.to_owned())), vec![command]));
        }
        assert_eq!(asked(Command::Check, true, &[Ok(SUCCESS)]).0, Ok(SUCCESS));
    }

    #[test]
    fn error_ends_the_waiting() {
        let answers = [Ok(Reply::Awaits), Err("the time is over")];
        let commands = vec![Command::Completions, Command::AwaitHost];
        assert_eq!(asked(Command::Completions, false, &answers), (Err("the time is over"), commands));
    }
}
