//! A server in a process of its own, so that it can be killed: driven by lines on its standard input.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use bedplate_ublk_target::{Attached, DataMode, TargetConfig};

use crate::Outcome;
use crate::fixture::{Bench, bench, config, spec};
use crate::volume::{LiveWords, VolumeBench, writable_spec};
use crate::writes::PLENTY;

/// `serve attach|recover|attach-volume|recover-volume NUMBER MODE REACTORS`
pub fn serve(args: &[String]) -> Outcome {
    let [verb, number, mode, reactors] = args else {
        return Err(
            "usage: serve attach|recover|attach-volume|recover-volume NUMBER MODE REACTORS".into(),
        );
    };
    let number: u32 = number.parse()?;
    let mode = if mode == "UserCopy" {
        DataMode::UserCopy
    } else {
        DataMode::ZeroCopy
    };
    let bench = bench(TargetConfig {
        reactors: reactors.parse()?,
        ..config(mode)
    })?;
    if verb.ends_with("-volume") {
        return serve_volume(verb, number, bench);
    }
    let Bench { target, stack, .. } = bench;
    let spec = spec(number);
    let attached = match verb.as_str() {
        "recover" => target.recover(&spec, Arc::clone(&stack))?,
        _ => target.attach(&spec, Arc::clone(&stack))?,
    };
    say_ready(&attached);
    wait_for_quiesce()?;
    target.quiesce_all()?;
    println!("quiesced");
    Ok(())
}

/// The same, of a volume, whose map is in a file.
fn serve_volume(verb: &str, number: u32, bench: Bench) -> Outcome {
    let (bench, target) = bench.split();
    let volume = VolumeBench::new(&bench, Arc::new(target), LiveWords::open()?, PLENTY)?;
    let (spec, backing) = (writable_spec(number), volume.backing.clone());
    let attached = match verb {
        "recover-volume" => volume.target.recover(&spec, backing)?,
        _ => volume.target.attach(&spec, backing)?,
    };
    say_ready(&attached);
    wait_for_quiesce()?;
    volume.into_target()?.quiesce_all()?;
    println!("quiesced");
    Ok(())
}

fn say_ready(attached: &Attached) {
    println!("ready {} {:?}", attached.path.display(), attached.data_mode);
}

fn wait_for_quiesce() -> Outcome {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    match line.trim_end() {
        "quiesce" => Ok(()),
        other => Err(format!("unknown command {other}").into()),
    }
}

/// A running server. Killed, without mercy, when dropped.
pub struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Server {
    /// Starts one and waits until its device is there.
    pub fn start(
        verb: &str,
        number: u32,
        mode: DataMode,
        reactors: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let mut server = Self::spawn(verb, number, mode, reactors)?;
        let line = server.line()?;
        if line.starts_with("ready") {
            Ok(server)
        } else {
            Err(format!("the server says: {line}").into())
        }
    }

    /// Starts one and waits for nothing.
    pub fn spawn(
        verb: &str,
        number: u32,
        mode: DataMode,
        reactors: usize,
    ) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([
                "serve",
                verb,
                &number.to_string(),
                &format!("{mode:?}"),
                &reactors.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Self {
            child,
            input,
            output,
        })
    }

    fn line(&mut self) -> Result<String, Box<dyn Error>> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub fn quiesce(mut self) -> Outcome {
        writeln!(self.input, "quiesce")?;
        let line = self.line()?;
        self.child.wait()?;
        if line == "quiesced" {
            Ok(())
        } else {
            Err(format!("the server says: {line}").into())
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ended already, if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
