#!/bin/sh
# Makes engine/assets/demo.mp4: 16 s of a sweeping clock and a ticking tone that loop without a seam. Needs ffmpeg with
# libx264 and drawtext, and the DejaVu fonts (Debian: ffmpeg fonts-dejavu-core).
#
# 16 s is the shortest length that is a whole number of both video frames (480) and AAC frames of 1024 samples (750), up
# to a factor of two. The sound is encoded for three rounds and the second is cut out, so that what the first frame
# overlaps with is the end of the last.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../engine/assets/demo.mp4}
fonts=/usr/share/fonts/truetype/dejavu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The dial, 300x300, in three still layers: marks, a fading trail with its hand pointing up, and a hub. Only the second
# turns, once in 4 s. Colours: background #0e1516, track #223234, teal #4fd1c5, hand #e8f4f2.
still() { # name, alpha, red, green, blue
    ffmpeg -v error -y -f lavfi -i "color=c=black:s=300x300:r=1:d=1,format=gbrap,geq=r=$3:g=$4:b=$5:a='255*($2)'" -frames:v 1 "$work/$1.png"
}
distance='hypot(X-149.5,Y-149.5)'
angle='mod(atan2(X-149.5,149.5-Y)+2*PI,2*PI)'
still marks "clip($distance-122,0,1)*clip(129-$distance,0,1)+clip(1.8-abs(mod($angle+PI/16,PI/8)-PI/16)*$distance,0,1)*clip($distance-103,0,1)*clip(113-$distance,0,1)" 34 50 52
still trail "0.5*exp(-1.3*(2*PI-$angle))*clip(97-$distance,0,1)*clip(X-149.5+400*gt(Y,149.5)+400*lt(X,149.5),0,1)" 79 209 197
still hand "clip(2.6-abs(X-149.5),0,1)*clip(149.5-Y,0,1)*clip(116-$distance,0,1)*gt($distance,7)+clip(8-$distance,0,1)" 232 244 242

text() { # font, size, colour, x, y, text
    printf '%s' "drawtext=fontfile=$fonts/$1:fontsize=$2:fontcolor=$3:x=$4:y=$5:text='$6'"
}
seconds='%{eif\:mod(t+0.001\,16)\:d\:2}'
tenths='%{eif\:mod(floor((t+0.001)*10)\,10)\:d\:1}'
ffmpeg -v error -stats -y -f lavfi -i "color=c=0x0e1516:s=640x360:r=30:d=16" \
    -loop 1 -r 30 -i "$work/marks.png" -loop 1 -r 30 -i "$work/trail.png" -loop 1 -r 30 -i "$work/hand.png" \
    -f lavfi -i "color=c=0x223234:s=252x6:r=30" -f lavfi -i "color=c=0x4fd1c5:s=252x6:r=30" -filter_complex "
    [0]format=gbrp[background];
    [2]format=rgba,rotate='2*PI*t/4':c=none[trail]; [3]format=rgba,rotate='2*PI*t/4':c=none[hand];
    [4][5]overlay=x='-252+252*t/16':y=0:shortest=1:eval=frame[progress];
    [background][1]overlay=28:30:format=gbrp:shortest=1[a];
    [a][trail]overlay=28:30:format=gbrp:shortest=1[b]; [b][hand]overlay=28:30:format=gbrp:shortest=1[c];
    [c][progress]overlay=362:290:format=gbrp:shortest=1,
    $(text DejaVuSans-Bold.ttf 42 0xe8f4f2 360 66 'Weir demo'),
    $(text DejaVuSansMono.ttf 84 0x4fd1c5 355 126 "$seconds.$tenths"),
    $(text DejaVuSans.ttf 14 0x8aa3a3 362 228 'H.264 at 30 fps, AAC at 48 kHz'),
    $(text DejaVuSans.ttf 14 0x8aa3a3 362 250 'a keyframe and a tick every second'),
    scale=out_color_matrix=bt709:out_range=tv,format=yuv420p[v]" -map "[v]" -t 16 \
    -c:v libx264 -profile:v main -preset veryslow -tune animation -crf 27 -bf 0 -g 30 -keyint_min 30 -sc_threshold 0 \
    -x264-params "open-gop=0:stitchable=1" -colorspace bt709 -color_primaries bt709 -color_trc bt709 -video_track_timescale 90000 \
    "$work/picture.mp4"

# A quiet fifth that swells once a round, a tick a second, a higher one every fourth.
tick='sin(2*PI*880*t)*exp(-16*mod(t,1))*0.22+sin(2*PI*1320*t)*exp(-9*mod(t,4))*0.16'
pad='(0.035+0.02*sin(2*PI*t/16))'
ffmpeg -v error -y -f lavfi -i "aevalsrc='$tick+$pad*sin(2*PI*220*t)+0.6*$pad*sin(2*PI*330*t)|$tick+$pad*sin(2*PI*220*t)+0.6*$pad*sin(2*PI*330.125*t)':s=48000:d=48" \
    -c:a aac -b:a 64k -use_editlist 0 "$work/sound.m4a"

# Frame n of the coded sound begins 1024 samples before n*1024 (priming), so the round starts at frame 751.
ffmpeg -v error -y -i "$work/picture.mp4" -i "$work/sound.m4a" -map 0:v -map 1:a -c copy \
    -bsf:a "noise=amount=0:drop='lt(n\,751)+gte(n\,1501)',setts=ts=N*1024" \
    -metadata title="Weir demo" -movflags +frag_keyframe+empty_moov+default_base_moof -f mp4 "$out"
ls -l "$out"
